#!/usr/bin/env python3
"""What scripts/machine.sh and lib.sh make of machines that this one is not."""

import unittest

from sandbox import Sandbox

OLD_FLAGS = "cx16 popcnt sse4_1 sse4_2 ssse3"


class MachineTest(unittest.TestCase):

    def setUp(self):
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.close)
        self.root = self.sandbox.folder / "machine"
        self.write("proc/cpuinfo", f"flags : fpu {OLD_FLAGS} avx2\n")
        self.write("etc/os-release", 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def look(self, code):
        return self.sandbox.source("machine.sh", f'machine_root="{self.root}"; {code}')

    def passes(self, code, *messages):
        done = self.look(code)
        self.assertEqual(done.returncode, 0, done.stderr)
        for message in messages:
            self.assertIn(message, done.stderr)
        return done

    def refuses(self, code, *messages):
        done = self.look(code)
        self.assertEqual(done.returncode, 1, done.stderr)
        for message in messages:
            self.assertIn(message, done.stderr)
        return done

    # ---------------------------------------------------------------- processor

    def test_a_processor_is_named_with_the_kernels_it_gets(self):
        self.passes("check_processor", "x86-64", "AVX2")
        self.write("proc/cpuinfo", f"flags : fpu {OLD_FLAGS} avx2 avx512f avx512_bf16\n")
        self.passes("check_processor", "AVX-512 with bf16")

    def test_another_architecture_is_refused(self):
        self.sandbox.fake("uname", '[[ $1 == -s ]] && echo Linux || echo aarch64')
        self.refuses("check_processor", "x86-64", "this is Linux on aarch64")

    def test_a_processor_that_is_too_old_is_refused_with_what_it_lacks(self):
        self.write("proc/cpuinfo", "flags : fpu cx16 popcnt ssse3\n")
        self.refuses("check_processor", "lacks sse4_1 sse4_2")

    # ---------------------------------------------------------------- distribution

    def test_debian_12_is_the_tested_one(self):
        done = self.passes("check_distribution", "Debian GNU/Linux 12 (bookworm)")
        self.assertNotIn("untested", done.stderr)

    def test_others_with_apt_are_named_as_untested(self):
        for id_, version, name in (("debian", "13", "Debian GNU/Linux 13 (trixie)"), ("ubuntu", "24.04", "Ubuntu 24.04 LTS")):
            self.write("etc/os-release", f'ID={id_}\nVERSION_ID="{version}"\nPRETTY_NAME="{name}"\n')
            self.refuses("check_distribution", f"warning: {name} is untested", "Debian 12 is the only tested")
        (self.root / "etc/os-release").unlink()
        self.refuses("check_distribution", "an unknown distribution is untested")

    def test_a_distribution_without_apt_is_refused(self):
        self.write("etc/os-release", 'ID=fedora\nVERSION_ID=40\nPRETTY_NAME="Fedora Linux 40"\n')
        self.sandbox.without("apt-get")
        self.refuses("check_distribution || exit 7", "Fedora Linux 40 has no apt")

    # ---------------------------------------------------------------- memory, jobs, disk

    def test_too_little_memory_is_refused_with_the_remedy(self):
        self.passes("check_memory 1536")
        self.refuses("check_memory 1535", "1535 MiB of memory are available", "add swap")

    def test_compile_jobs_are_one_a_core_and_one_for_each_2_gib(self):
        self.sandbox.fake("nproc", "echo 8")
        for memory_mib, jobs in ((1024, 1), (4095, 1), (4096, 2), (9000, 4), (16384, 8), (1000000, 8)):
            done = self.look(f"available_memory_mib() {{ echo {memory_mib}; }}; build_jobs")
            self.assertEqual(done.stdout, f"{jobs}\n", f"{memory_mib} MiB")

    def test_a_number_of_jobs_that_is_none_is_refused(self):
        for jobs in ("0", "many", "-1", "2x"):
            done = self.sandbox.source("machine.sh", "build_jobs", SPILLWAY_JOBS=jobs)
            self.assertEqual(done.returncode, 1, jobs)
            self.assertIn(f"SPILLWAY_JOBS={jobs}", done.stderr)

    def test_disk_is_looked_up_where_the_folder_will_be(self):
        self.sandbox.fake("df", 'echo Avail; [[ ${*: -1} == / ]] && echo 499 || echo 0')
        self.refuses("check_disk /no/such/folder 500 'the cache'", "the cache needs about 500 MiB in /no/such/folder, and 499 MiB are free")
        self.passes("check_disk /no/such/folder 499 'the cache'")

    # ---------------------------------------------------------------- GPU

    def test_no_gpu_no_word(self):
        self.assertEqual(self.passes("announce_gpu").stderr, "")

    def test_a_gpu_is_found_by_driver_by_tool_and_by_bus(self):
        self.write("proc/driver/nvidia/gpus/0000:01:00.0/information", "")
        self.passes("announce_gpu", "has an NVIDIA GPU", "cuda-toolkit-13-0")
        (self.root / "proc/driver/nvidia/gpus/0000:01:00.0/information").unlink()
        (self.root / "proc/driver/nvidia/gpus/0000:01:00.0").rmdir()
        self.sandbox.fake("nvidia-smi", 'echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"')
        self.passes("announce_gpu", "has an NVIDIA GPU")
        self.sandbox.fake("nvidia-smi", 'echo "No devices were found"')
        self.assertEqual(self.passes("announce_gpu").stderr, "")
        self.write("sys/bus/pci/devices/0/vendor", "0x10de\n")
        self.write("sys/bus/pci/devices/0/class", "0x030200\n")
        self.passes("announce_gpu", "has an NVIDIA GPU")
        self.write("sys/bus/pci/devices/0/class", "0x040300\n")  # its sound function alone
        self.assertEqual(self.passes("announce_gpu").stderr, "")

    def test_the_remedy_is_for_those_without_nvcc_13(self):
        self.sandbox.fake("nvidia-smi", 'echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"')
        for release, enough in (("12.9", False), ("13.0", True), ("13.1", True), ("20.0", True), ("1.3", False)):
            self.sandbox.fake("nvcc", f'echo "Cuda compilation tools, release {release}, V{release}"')
            told = self.passes("announce_gpu").stderr
            self.assertEqual("cuda-toolkit" in told, not enough, release)

    # ---------------------------------------------------------------- packages

    def test_every_missing_package_is_named_and_none_that_is_installed(self):
        self.sandbox.fake("dpkg-query", '[[ ${*: -1} == libdnnl-dev ]] || printf installed')
        done = self.sandbox.run("scripts/packages.sh", "missing", "build", "test")
        self.assertEqual((done.returncode, done.out), (0, "libdnnl-dev\n"))

    def test_a_removed_package_whose_settings_are_left_is_missing(self):
        self.sandbox.fake("dpkg-query", "printf config-files")
        self.assertIn("cmake\n", self.sandbox.run("scripts/packages.sh", "missing", "build").out)

    def test_an_unknown_set_of_packages_is_a_usage_error(self):
        done = self.sandbox.run("scripts/packages.sh", "install", "everything")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown package set 'everything'", done.err)


if __name__ == "__main__":
    unittest.main()
