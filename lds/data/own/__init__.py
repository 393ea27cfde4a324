"""A user's own data: readers of formats, which only take parts out of files; `lds.data.prepare` makes data of them."""

from lds.data.own._read import read

__all__ = ["read"]
