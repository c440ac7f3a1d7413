# SPDX-License-Identifier: Apache-2.0
"""A conversation that keeps what was said, with errors as the daemon explains them.

    python chat.py [--server=HOST:PORT] [--system=TEXT] [--max_tokens=N]      a message a line
"""
import argparse
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2
from spillway.v1 import inference_pb2 as pb
from spillway.v1 import inference_pb2_grpc


def explain(error):
    """What a failed call says: its message, the reason from docs/api.md, every wrong field."""
    lines = [f"{error.code().name}: {error.details()}"]
    for name, value in error.trailing_metadata() or ():
        if name != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(info):
                lines.append(f"  reason {info.reason}")
            elif detail.Unpack(bad_request):
                lines += [f"  {v.field}: {v.description}" for v in bad_request.field_violations]
    return "\n".join(lines)


def answer(stub, messages, options):
    """Streams the answer to `messages` and returns its text."""
    text = ""
    usage = pb.Usage()
    for event in stub.StreamChat(pb.ChatRequest(messages=messages, options=options), timeout=600):
        # Events of a kind that this client does not know are passed over: the interface grows.
        kind = event.WhichOneof("event")
        if kind == "delta":
            text += event.delta.text
            print(event.delta.text, end="", flush=True)
        elif kind == "usage":
            usage = event.usage
    print(f"\n[{usage.generated_tokens} tokens, the first after {usage.timings.first_token_ms:.0f} ms]", file=sys.stderr)
    return text


def main():
    parser = argparse.ArgumentParser(description="A conversation with a Spillway daemon.")
    parser.add_argument("--server", default="127.0.0.1:8090")
    parser.add_argument("--system", default="")
    parser.add_argument("--max_tokens", type=int, default=400)
    arguments = parser.parse_args()

    options = pb.GenerationOptions(max_tokens=arguments.max_tokens)
    messages = [pb.ChatMessage(role="system", content=arguments.system)] if arguments.system else []
    with grpc.insecure_channel(arguments.server) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for line in sys.stdin:
            messages.append(pb.ChatMessage(role="user", content=line.rstrip("\n")))
            try:
                text = answer(stub, messages, options)
            except grpc.RpcError as error:
                sys.exit(explain(error))
            messages.append(pb.ChatMessage(role="assistant", content=text))


if __name__ == "__main__":
    main()
