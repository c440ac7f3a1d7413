#!/usr/bin/env python3
"""The checker finds every kind of breach that it exists for, and lets through what is allowed."""

import unittest

from check_walls import check


class CheckWalls(unittest.TestCase):

    def refuses(self, path, line, what):
        breaches = check({path: line})
        self.assertEqual(len(breaches), 1, breaches)
        self.assertIn(what, breaches[0])
        self.assertTrue(breaches[0].startswith(path + ":1: "), breaches[0])

    def allows(self, path, line):
        self.assertEqual(check({path: line}), [])

    def test_rooms_depend_one_way(self):
        self.refuses("base/a.h", '#include "engine/kv/host_pool.h"', "base may not include engine/kv")
        self.refuses("engine/exec/a.cc", '#include "scheduler/request.h"', "may not include scheduler")
        self.refuses("engine/text/a.cc", '#include "engine/model/gguf.h"', "may not include engine/model")
        self.refuses("scheduler/a.cc", '#include "server/admission.h"', "may not include server")
        self.refuses("client/a.cc", '#include "engine/text/tokenizer.h"', "may not include engine/text")
        self.refuses("engine/odd.h", "int x;", "no room of the engine")
        self.allows("scheduler/a.cc", '#include "engine/exec/executor.h"')
        self.allows("engine/exec/a.cc", '#include "engine/kv/host_pool.h"')
        self.allows("server/a.cc", '#include "base/clock.h"')
        self.allows("tests/server/a.cc", '#include "server/admission.h"')

    def test_exceptions_are_single_files_and_single_headers(self):
        line = '#include "scheduler/plan_explanation.h"'
        self.allows("client/plan.cc", line)
        self.refuses("client/chat.cc", line, "client may not include scheduler")
        self.refuses("client/plan.cc", '#include "scheduler/planner.h"', "client may not include scheduler")

    def test_concrete_devices_are_named_by_main_bench_and_tests_only(self):
        line = '#include "engine/device/cpu/cpu_device.h"'
        self.refuses("scheduler/a.cc", line, "may not include engine/device/cpu")
        self.refuses("engine/exec/a.cc", line, "may not include engine/device/cpu")
        self.refuses("server/services.cc", line, "may not include engine/device/cpu")
        for path in ("server/main.cc", "bench/engine_bench.cc", "tests/engine/a_test.cc", "engine/device/cpu/a.cc"):
            self.allows(path, line)

    def test_libraries_stay_behind_their_walls(self):
        self.refuses("scheduler/planner.cc", "#include <glpk.h>", "GLPK")
        self.refuses("scheduler/a.cc", '#include "prometheus/registry.h"', "Prometheus")
        self.refuses("scheduler/a.cc", '#include "google/protobuf/message.h"', "protobuf")
        self.refuses("engine/exec/a.cc", '#include "spillway/v1/inference.pb.h"', "protobuf")
        self.refuses("scheduler/a.cc", "#include <grpcpp/grpcpp.h>", "gRPC")
        self.refuses("engine/exec/a.cc", "#include <cuda_runtime.h>", "CUDA")
        self.refuses("engine/exec/a.cc", "#include <cublasLt.h>", "CUDA")
        self.refuses("engine/exec/a.cc", "#include <dnnl.hpp>", "oneDNN")
        self.refuses("server/a.cc", "#include <pcre2.h>", "PCRE2")
        self.refuses("server/tls_files.cc", "#include <openssl/ssl.h>", "OpenSSL")
        self.allows("server/certificates.cc", "#include <openssl/ssl.h>")
        self.allows("scheduler/linear_program.cc", "#include <glpk.h>")
        self.allows("client/a.cc", '#include "spillway/v1/inference.grpc.pb.h"')
        self.allows("tests/server/a.cc", '#include "prometheus/registry.h"')

    def test_prometheus_belongs_in_one_source(self):
        line = "#include <prometheus/registry.h>"
        self.assertEqual(check({"server/metrics.cc": line}), [])
        breaches = check({"server/metrics.cc": line, "server/main.cc": line})
        self.assertEqual(breaches, ["server/main.cc, server/metrics.cc: the Prometheus library belongs in one source file"])

    def test_words(self):
        self.refuses("server/a.h", "class StreamManager {", "Manager")
        self.refuses("server/a.h", "struct FormatUtil;", "Manager")
        self.refuses("engine/kv/a.h", "double link_gbps;", "gbps")
        self.refuses("base/a.h", "// TODO: faster", "TODO")
        self.refuses("base/a.cc", '  throw std::runtime_error("no");', "throws")
        self.refuses("base/a.cc", "using namespace std;", "using namespace")
        self.refuses("base/a.cc", 'Open("/home/someone/model.gguf");', "path of one machine")
        self.allows("base/a.h", "// TODO: drop when Debian 13 brings Abseil with absl/log")
        self.allows("base/a.cc", "// Nothing here may throw.")

    def test_files_outside_of_the_rooms_are_not_judged(self):
        self.allows("docs/a.h", "#include <glpk.h>")
        self.allows("scheduler/notes.md", "#include <glpk.h> in a text")


if __name__ == "__main__":
    unittest.main()
