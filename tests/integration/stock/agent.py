"""A stock agent: knows only the fixed fields. Usage: agent.py ADDRESS AGENT_ID TOKEN_FILE

Runs each command with /bin/sh -c, pushes its output as it comes, then the final response.
Prints a JSON line for each thing that happens. Commands on stdin: "quit" (leave cleanly).
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading

import grpc

from stubs import pb, rpc


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class Agent:
    def __init__(self, address, agent_id, token):
        self.agent_id = agent_id
        self.out = queue.Queue()
        self.processes = {}
        self.cancelled = set()
        self.channel = grpc.insecure_channel(address)
        self.stream = rpc.TaskServiceStub(self.channel).StreamTasks(
            iter(self.out.get, None), metadata=(("agent_id", agent_id), ("agent_token", token))
        )

    def send(self, **fields):
        self.out.put(pb.TaskResponse(agent_id=self.agent_id, **fields))

    def run(self, request):
        task = request.task_id
        shell = request.shell_execute
        env = dict(os.environ, **dict(e.split("=", 1) for e in shell.env))
        self.send(task_id=task, status=pb.TaskResponse.IN_PROGRESS)
        process = subprocess.Popen(
            ["/bin/sh", "-c", shell.cmd],
            env=env,
            cwd=shell.working_dir or None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes[task] = process
        say(event="started", task=task, pid=process.pid)

        def pump(pipe, name):
            while data := os.read(pipe.fileno(), 4096):
                self.send(
                    task_id=task,
                    status=pb.TaskResponse.IN_PROGRESS,
                    shell_execute=pb.ShellExecuteResponse(**{name: data}),
                )

        pumps = [
            threading.Thread(target=pump, args=a)
            for a in ((process.stdout, "stdout"), (process.stderr, "stderr"))
        ]
        for p in pumps:
            p.start()
        for p in pumps:
            p.join()
        code = process.wait()
        self.send(
            task_id=task,
            is_final=True,
            cancelled=task in self.cancelled,
            status=pb.TaskResponse.COMPLETED if code == 0 else pb.TaskResponse.FAILURE,
            shell_execute=pb.ShellExecuteResponse(exit_code=code),
        )
        say(event="finished", task=task, code=code)

    def cancel(self, request):
        self.cancelled.add(request.task_id)
        process = self.processes.get(request.task_id)
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        self.send(task_id=request.task_id, task_cancel=pb.TaskCancelResponse(message="stopping"))

    def serve(self):
        try:
            for request in self.stream:
                kind = request.WhichOneof("task")
                say(
                    event="request",
                    task=request.task_id,
                    kind=kind,
                    agent=request.agent_id,
                    cmd=request.shell_execute.cmd,
                )
                if kind == "shell_execute":
                    threading.Thread(target=self.run, args=(request,), daemon=True).start()
                elif kind == "task_cancel":
                    self.cancel(request)
            say(event="closed", code="OK")
        except grpc.RpcError as error:
            say(event="closed", code=error.code().name, details=error.details())


def main():
    address, agent_id, token_file = sys.argv[1:4]
    with open(token_file) as f:
        agent = Agent(address, agent_id, f.read().strip())

    def commands():
        for line in sys.stdin:
            if line.strip() == "quit":
                agent.out.put(None)

    threading.Thread(target=commands, daemon=True).start()
    agent.serve()
    os._exit(0)


main()
