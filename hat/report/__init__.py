"""Tables and pictures made from finished runs."""
