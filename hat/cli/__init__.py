"""Command lines: dataclass fields become flags, errors become exit code 2."""
