"""Well-formed bilevel problems of many kinds: no guard may say a word about them, and every answer is known."""

from tests.hypergrad.well_formed import applications, dynamics, networks, numbers, operations
from tests.hypergrad.well_formed.base import CASES, WellFormed

__all__ = ["CASES", "WellFormed", "applications", "dynamics", "networks", "numbers", "operations"]
