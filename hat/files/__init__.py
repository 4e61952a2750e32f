"""Safe files: written whole or not at all, read without trusting them."""
