#!/usr/bin/python3
"""An independent gRPC client (python3-grpcio) against rpc_test_server.

    test_stock_client.py RPC_TEST_SERVER PROTO_ROOT ECHO_PROTO_DIR
"""

import os
import queue
import subprocess
import sys
import tempfile
import unittest

import grpc
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

SERVER, PROTO_ROOT, ECHO_DIR = sys.argv[1:4]
TIMEOUT = 20


def generate(out):
    files = {
        PROTO_ROOT: ["grpc/health/v1/health.proto", "grpc/reflection/v1alpha/reflection.proto",
                     "nodelink/v1/task.proto"],
        ECHO_DIR: ["echo.proto"],
    }
    for root, names in files.items():
        if protoc.main(["protoc", f"-I{root}", f"--python_out={out}"] + names) != 0:
            raise RuntimeError("protoc failed")


GENERATED = tempfile.TemporaryDirectory()
generate(GENERATED.name)
# Generated below a folder named grpc, so not as packages: grpc is the library's name.
for folder in ("", "grpc/health/v1", "grpc/reflection/v1alpha", "nodelink/v1"):
    sys.path.insert(0, os.path.join(GENERATED.name, folder))
import echo_pb2  # noqa: E402
import health_pb2  # noqa: E402
import reflection_pb2  # noqa: E402
import task_pb2  # noqa: E402


class Requests:
    """Iterator of requests that a test feeds."""

    def __init__(self):
        self.queue = queue.Queue()

    def send(self, message):
        self.queue.put(message)

    def close(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


class StockClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = subprocess.Popen([SERVER], stdout=subprocess.PIPE, text=True)
        port = int(cls.server.stdout.readline().split()[1])
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.terminate()
        assert cls.server.wait(TIMEOUT) == 0
        cls.server.stdout.close()

    def unary(self, path, request, reply_type):
        call = self.channel.unary_unary(path, type(request).SerializeToString,
                                        reply_type.FromString)
        return call(request, timeout=TIMEOUT)

    def stream(self, path, requests, request_type, reply_type):
        call = self.channel.stream_stream(path, request_type.SerializeToString,
                                          reply_type.FromString)
        return call(iter(requests), timeout=TIMEOUT)

    def check(self, service):
        request = health_pb2.HealthCheckRequest(service=service)
        return self.unary("/grpc.health.v1.Health/Check", request,
                          health_pb2.HealthCheckResponse).status

    def test_unary(self):
        reply = self.unary("/nltest.EchoService/Unary", echo_pb2.Echo(text="grüß", data=b"\0\xff"),
                           echo_pb2.Echo)
        self.assertEqual((reply.text, reply.data), ("grüß", b"\0\xff"))

    def test_error(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.unary("/nltest.EchoService/Unary", echo_pb2.Echo(text="fail"), echo_pb2.Echo)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(caught.exception.details(), "as asked")

    def test_unknown_method(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.unary("/nltest.EchoService/Nope", echo_pb2.Echo(), echo_pb2.Echo)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_oversized_request(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.unary("/nltest.EchoService/Unary", echo_pb2.Echo(data=bytes(5 << 20)),
                       echo_pb2.Echo)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_compressed_request(self):
        call = self.channel.unary_unary("/nltest.EchoService/Unary",
                                        echo_pb2.Echo.SerializeToString, echo_pb2.Echo.FromString)
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            reply = call(echo_pb2.Echo(text="a" * 10000), timeout=TIMEOUT, compression=compression)
            self.assertEqual(reply.text, "a" * 10000)

    def test_bidi(self):
        requests = Requests()
        replies = self.stream("/nodelink.v1.TaskService/StreamTasks", requests,
                              task_pb2.TaskResponse, task_pb2.TaskRequest)
        for number in range(100):
            requests.send(task_pb2.TaskResponse(agent_id="a", task_id=str(number)))
            self.assertEqual(next(replies).task_id, str(number))
        requests.close()
        self.assertEqual(list(replies), [])
        self.assertEqual(replies.code(), grpc.StatusCode.OK)

    def test_health_check(self):
        serving = health_pb2.HealthCheckResponse.SERVING
        self.assertEqual(self.check(""), serving)
        self.assertEqual(self.check("nodelink.v1.TaskService"), serving)
        with self.assertRaises(grpc.RpcError) as caught:
            self.check("no.such.Service")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_health_watch(self):
        call = self.channel.unary_stream("/grpc.health.v1.Health/Watch",
                                         health_pb2.HealthCheckRequest.SerializeToString,
                                         health_pb2.HealthCheckResponse.FromString)
        for service, expected in (("", health_pb2.HealthCheckResponse.SERVING),
                                  ("x", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)):
            watch = call(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
            self.assertEqual(next(watch).status, expected)
            watch.cancel()
        # Echo's Unary sets the health of "toggle" by its text; see fixture.c.
        watch = call(health_pb2.HealthCheckRequest(service="toggle"), timeout=TIMEOUT)
        statuses = [next(watch).status]
        for word in ("serving", "not serving"):
            self.unary("/nltest.EchoService/Unary", echo_pb2.Echo(text=word), echo_pb2.Echo)
            statuses.append(next(watch).status)
        watch.cancel()
        self.assertEqual(statuses, [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
                                    health_pb2.HealthCheckResponse.SERVING,
                                    health_pb2.HealthCheckResponse.NOT_SERVING])

    def reflect(self, **request):
        requests = Requests()
        replies = self.stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                              requests, reflection_pb2.ServerReflectionRequest,
                              reflection_pb2.ServerReflectionResponse)
        requests.send(reflection_pb2.ServerReflectionRequest(**request))
        reply = next(replies)
        requests.close()
        self.assertEqual(list(replies), [])
        self.assertEqual(reply.original_request,
                         reflection_pb2.ServerReflectionRequest(**request))
        return reply

    def files(self, **request):
        protos = self.reflect(**request).file_descriptor_response.file_descriptor_proto
        return [descriptor_pb2.FileDescriptorProto.FromString(proto) for proto in protos]

    def test_reflection_lists_services(self):
        names = [s.name for s in self.reflect(list_services="").list_services_response.service]
        self.assertEqual(sorted(names), ["grpc.health.v1.Health",
                                         "grpc.reflection.v1alpha.ServerReflection",
                                         "nltest.EchoService", "nodelink.v1.TaskService"])

    def test_reflection_finds_symbols_with_dependencies(self):
        for symbol in ("nodelink.v1.ControlService", "nodelink.v1.ControlService.GetTask",
                       "nodelink.v1.Task", "nodelink.v1.CancelTaskReply.Outcome"):
            names = [file.name for file in self.files(file_containing_symbol=symbol)]
            self.assertEqual(names[0], "nodelink/v1/control.proto")
            self.assertEqual(sorted(names[1:]), ["nodelink/v1/command.proto",
                                                 "nodelink/v1/task.proto"])

    def test_reflection_finds_files(self):
        file, = self.files(file_by_filename="nodelink/v1/task.proto")
        self.assertEqual(file.service[0].method[0].name, "StreamTasks")

    def test_reflection_errors(self):
        for request in ({"file_by_filename": "no.proto"}, {"file_containing_symbol": "no.Symbol"},
                        {"all_extension_numbers_of_type": "no.Type"},
                        {"file_containing_extension": {"containing_type": "nodelink.v1.Task"}}):
            reply = self.reflect(**request)
            self.assertEqual(reply.error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])
        self.assertEqual(self.reflect(host="x").error_response.error_code,
                         grpc.StatusCode.INVALID_ARGUMENT.value[0])
        reply = self.reflect(all_extension_numbers_of_type="nodelink.v1.Task")
        self.assertEqual(reply.all_extension_numbers_response.base_type_name, "nodelink.v1.Task")

    def test_reflection_with_a_reader_that_waits(self):
        """More answers than the send queue holds: none is lost."""
        count = 2000
        ask = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="nodelink.v1.ControlService")
        replies = self.stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                              [ask] * count, reflection_pb2.ServerReflectionRequest,
                              reflection_pb2.ServerReflectionResponse)
        self.assertEqual(sum(1 for _ in replies), count)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
