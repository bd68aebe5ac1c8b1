"""A stock server: knows only the fixed fields. Usage: server.py [PORT]

Prints {"event":"listening","port":N}, then a JSON line for each response of an agent.
Commands on stdin, JSON lines: {"task":"ID","cmd":"..."} or {"cancel":"ID"}; "quit".
"""

import base64
import json
import os
import queue
import sys
import threading
from concurrent import futures

import grpc

from stubs import pb, rpc


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Service(rpc.TaskServiceServicer):
    def __init__(self):
        self.requests = queue.Queue()
        self.agent_id = ""

    def StreamTasks(self, responses, context):
        metadata = dict(context.invocation_metadata())
        self.agent_id = metadata.get("agent_id", "")
        say(event="connected", agent=self.agent_id, token=metadata.get("agent_token", ""))

        def read():
            try:
                for r in responses:
                    say(
                        event="response",
                        task=r.task_id,
                        agent=r.agent_id,
                        status=r.status,
                        final=r.is_final,
                        cancelled=r.cancelled,
                        kind=r.WhichOneof("response"),
                        stdout=base64.b64encode(r.shell_execute.stdout).decode(),
                        stderr=base64.b64encode(r.shell_execute.stderr).decode(),
                        exit_code=r.shell_execute.exit_code,
                    )
            except grpc.RpcError:
                pass
            say(event="disconnected")

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                yield self.requests.get(timeout=0.2)
            except queue.Empty:
                if not context.is_active():
                    return


def main():
    service = Service()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    rpc.add_TaskServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else 0}")
    server.start()
    say(event="listening", port=port)
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        command = json.loads(line)
        if "cancel" in command:
            service.requests.put(
                pb.TaskRequest(
                    agent_id=service.agent_id,
                    task_id=command["cancel"],
                    task_cancel=pb.TaskCancel(reason="test"),
                )
            )
        else:
            service.requests.put(
                pb.TaskRequest(
                    agent_id=service.agent_id,
                    task_id=command["task"],
                    shell_execute=pb.ShellExecute(
                        cmd=command["cmd"],
                        env=command.get("env", []),
                        working_dir=command.get("cwd", ""),
                    ),
                )
            )
    os._exit(0)


main()
