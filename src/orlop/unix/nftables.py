# SPDX-License-Identifier: Apache-2.0
"""libnftables: firewall changes as transactions, in the network namespace in which the context was made."""

import ctypes
import errno

_OUTPUT_HANDLE = 1 << 3  # NFT_CTX_OUTPUT_HANDLE, nftables/libnftables.h


class NftablesError(OSError):
    """A command set was refused; nothing of it has been applied. The text is the library's, on one line."""


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL("libnftables.so.1")
    context, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype = context
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [context]
    library.nft_run_cmd_from_buffer.argtypes = [context, text]
    library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}").argtypes = [context]
        getattr(library, f"nft_ctx_get_{name}_buffer").argtypes = [context]
        getattr(library, f"nft_ctx_get_{name}_buffer").restype = text
    return library


class Nftables:
    """A libnftables context; belongs to one thread at a time.

    Example: `nft = Nftables(); nft.run("add table ip example"); nft.close()`.
    """

    def __init__(self) -> None:
        """Raises OSError if libnftables is not installed or gives no context."""
        self._library = _load()
        self._context: int | None = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.ENOMEM, "libnftables gives no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Apply `commands` (the language of nft(8)) as one transaction and return what they print.

        Raises NftablesError with the library's message.
        """
        if self._context is None:
            raise ValueError("the nftables context is closed")
        result = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        message: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if result != 0:
            raise NftablesError(errno.EINVAL, " ".join(message.decode(errors="replace").split()))
        return output.decode(errors="replace")

    def run_with_handles(self, commands: str) -> str:
        """As `run`, with the handle of each object behind it ("# handle 7"), as `nft -a` prints it."""
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_HANDLE)
        try:
            return self.run(commands)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None
