"""A user's own data: a PyTorch Geometric `Data` in a .pt file, arrays in a .npz file, or a table in a .csv file."""

from lds.data.own._read import Scale, read

__all__ = ["Scale", "read"]
