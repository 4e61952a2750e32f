"""Download what the 2020 release published: python download_model.py --list, --model-name=NAME, --help"""

from hat.cli.files import download_model as main

if __name__ == "__main__":
    raise SystemExit(main())
