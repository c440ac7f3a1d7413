# SPDX-License-Identifier: Apache-2.0
"""Streams a completion: python complete.py "The capital of France is" [HOST:PORT]"""
import sys

import grpc
from spillway.v1 import inference_pb2 as pb
from spillway.v1 import inference_pb2_grpc

prompt = sys.argv[1]
server = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8090"
with grpc.insecure_channel(server) as channel:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    options = pb.GenerationOptions(max_tokens=40, sampling=pb.SamplingOptions(temperature=0))
    for event in stub.StreamComplete(pb.CompleteRequest(text=prompt, options=options), timeout=120):
        print(event.delta.text, end="", flush=True)
print()
