"""Find the best SubTransformer under a latency constraint.

Python evo_search.py --configs=... --evo-configs=...
"""

from hat.cli.evo_search import main

if __name__ == "__main__":
    raise SystemExit(main())
