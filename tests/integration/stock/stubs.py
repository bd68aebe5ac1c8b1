"""Stubs of stock.proto, generated into a temporary directory at import."""

import atexit
import importlib
import pathlib
import shutil
import sys
import tempfile

from grpc_tools import protoc

_out = tempfile.mkdtemp(prefix="nl-stock-")
atexit.register(shutil.rmtree, _out, True)
_proto = pathlib.Path(__file__).parent / "proto"
if protoc.main(
    ["protoc", f"-I{_proto}", f"--python_out={_out}", f"--grpc_python_out={_out}", "stock.proto"]
):
    raise SystemExit("protoc failed")
sys.path.insert(0, _out)
pb = importlib.import_module("stock_pb2")
rpc = importlib.import_module("stock_pb2_grpc")
