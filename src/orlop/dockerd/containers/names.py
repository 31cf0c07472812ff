# SPDX-License-Identifier: Apache-2.0
"""Names of containers: what is valid, and names for those that the user gave none."""

import re
import secrets
from collections.abc import Callable

from orlop.errdefs import InvalidArgumentError

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = """
able brave bright busy calm careful cheerful clever cool curious daring deep eager early fair fast fearless
fine firm fond frank free fresh friendly gentle glad golden grand great happy hardy honest humble jolly keen
kind lively loyal lucid lucky merry mild modest neat nimble noble open patient plain polite proud quick quiet
rapid ready rich robust sharp silent simple sincere sleek smart smooth snug solid sound spry steady still
strong sturdy sunny sure swift tame tender tidy tranquil trusty upbeat useful valiant vivid warm watchful wise
witty young zealous
"""
_SURNAMES = """
abel agnesi archimedes babbage banach bardeen bartik bell bernoulli bhabha blackwell bohr boole bose brahe
cantor carson cauchy cerf church clarke colden cori curie darwin davinci diffie dijkstra dirac easley edison
einstein elion engelbart euclid euler faraday fermat fermi feynman franklin galileo galois gauss germain
goedel goldberg goodall hamilton hawking heisenberg hellman herschel hertz hilbert hodgkin hopper hypatia
johnson joliot kalam kare keller kepler khayyam khorana kirch knuth kovalevskaya lamarr lamport leakey leavitt
lederberg lovelace lumiere maxwell mayer mcclintock mcnulty meitner mendel mendeleev mirzakhani montalcini
moore moser napier nash neumann newton nightingale nobel noether noyce pascal pasteur payne perlman pike
poincare ptolemy raman ramanujan ride ritchie rosalind rubin sammet shannon shaw shockley stonebraker swartz
tesla thompson torvalds turing varahamihira villani volhard wiles wilson wing wozniak wright wu yalow yonath
"""


def check_name(name: str) -> str:
    """The name without its optional slash. Raises InvalidArgumentError."""
    bare = name.removeprefix("/")
    if not _VALID.fullmatch(bare):
        raise InvalidArgumentError(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


def generate_name(taken: Callable[[str], bool]) -> str:
    """An adjective and the surname of a scientist that no container has."""
    for attempt in range(6):
        name = f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_SURNAMES.split())}"
        if attempt:
            name += str(secrets.randbelow(10 ** (attempt + 1)))
        if not taken(name):
            return name
    return secrets.token_hex(16)


def generate_id(taken: Callable[[str], bool]) -> str:
    """64 hexadecimal digits; the first twelve are not all decimal: no one takes the short form for a number."""
    while True:
        id_ = secrets.token_hex(32)
        if not id_[:12].isdecimal() and not taken(id_):
            return id_
