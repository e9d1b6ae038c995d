"""Whence: trace what a trained network does back to where it came from."""

__all__: tuple[str, ...] = ()
