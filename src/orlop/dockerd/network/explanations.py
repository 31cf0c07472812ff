# SPDX-License-Identifier: Apache-2.0
"""Why nftables refused, in words that help where it is the kernel that has none."""

_NO_KERNEL_SUPPORT = ("cache initialization failed", "Operation not supported", "Protocol not supported")


def explain(error: OSError) -> str:
    """The reason of an error of nftables."""
    text = error.strerror or str(error)
    if any(sign in text for sign in _NO_KERNEL_SUPPORT):
        return f"the kernel has no nftables (modules nf_tables, nft_chain_nat, nft_fib_inet …): {text}"
    return text
