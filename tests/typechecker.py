"""The type checker that every function of the library runs under while tests run: a whole number is also a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
