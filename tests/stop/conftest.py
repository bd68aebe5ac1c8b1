import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "integration", HERE.parent / "unit/link"):
    sys.path.insert(0, str(folder))
