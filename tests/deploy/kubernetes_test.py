#!/usr/bin/env python3
"""The Kubernetes manifests: they render without a network, follow Kubernetes' schemas, pass checkov, and fit together.

Usage: kubernetes_test.py --bin=FOLDER [unittest's own arguments]
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

import daemons
import expressions
import metric_names
from metric_names import ROOT

OPTIONS = argparse.Namespace(bin="")
KUBERNETES = ROOT / "deploy" / "kubernetes"
# Kinds that are not Kubernetes' own: its schemas do not have them.
CUSTOM_KINDS = {"PodMonitor", "PrometheusRule", "ScaledObject"}


def run(*arguments, **options):
    return subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, check=False,
                          env=daemons.environment(), **options)


def configurations():
    return sorted(file.parent for folder in ("overlays", "examples") for file in KUBERNETES.glob(f"{folder}/*/kustomization.yaml"))


def rendered(folder):
    done = run("kubectl", "kustomize", folder)
    if done.returncode != 0 or done.stderr:  # warnings too, of what is deprecated
        raise AssertionError(f"{folder}: {done.stderr}")
    return done.stdout


def one(objects, kind):
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def selects(selector, labels):
    """A LabelSelector, of which the manifests use matchLabels alone; an empty one selects everything."""
    if not selector.keys() <= {"matchLabels"}:
        raise AssertionError(f"the test has to follow: {selector}")
    return selector.get("matchLabels", {}).items() <= labels.items()


def admitted(rule, pod, namespace):
    """Whether a rule's `from` lets a pod of these labels come, whose namespace has these, or (None) is the policy's own."""
    for peer in rule["from"]:
        own = namespace is None
        if (selects(peer["namespaceSelector"], namespace or {}) and not own if "namespaceSelector" in peer else own) and \
                selects(peer.get("podSelector", {}), pod):
            return True
    return False


class KubernetesTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.objects = {}
        for configuration in configurations():
            name = str(configuration.relative_to(KUBERNETES))
            text = rendered(configuration)
            (cls.folder / f"{configuration.name}.yaml").write_text(text)
            cls.objects[name] = list(yaml.safe_load_all(text))

    def each(self):
        for name, objects in self.objects.items():
            with self.subTest(name):
                yield name, objects

    def pods(self):
        for _, objects in self.each():
            yield objects, one(objects, "Deployment")["spec"]["template"]["spec"]

    def test_the_overlays_and_examples_are_there(self):
        self.assertLessEqual({f"overlays/{name}" for name in ("cpu", "gpu", "monitoring")}, set(self.objects))
        self.assertLessEqual({"examples/hpa", "examples/keda"}, set(self.objects))

    def test_every_object_follows_its_schema(self):
        done = run("kubernetes-validate", "--strict", *sorted(self.folder.glob("*.yaml")))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        checked = (done.stdout + done.stderr).count(" passed for resource ")
        own = [each for objects in self.objects.values() for each in objects if each["kind"] not in CUSTOM_KINDS]
        self.assertEqual(checked, len(own))

    def test_an_unknown_field_is_seen(self):
        [deployment] = [each for each in self.objects["overlays/cpu"] if each["kind"] == "Deployment"]
        deployment = json.loads(json.dumps(deployment))
        deployment["spec"]["template"]["spec"]["gracePeriod"] = 7
        file = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "wrong.yaml"
        file.write_text(yaml.safe_dump(deployment))
        self.assertNotEqual(run("kubernetes-validate", "--strict", file).returncode, 0)

    def checkov(self, folder):
        done = run("checkov", "--directory", folder, "--framework", "kubernetes", "--output", "json", "--skip-download")
        return json.loads(done.stdout), done

    def test_checkov_finds_nothing_and_every_exception_has_its_reason(self):
        report, done = self.checkov(self.folder)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        self.assertGreater(report["summary"]["passed"], 80 * len(self.objects))
        self.assertEqual(report["summary"]["failed"], 0)
        skipped = report["results"]["skipped_checks"]
        self.assertEqual({check["check_id"] for check in skipped}, {"CKV_K8S_15", "CKV_K8S_43"})
        for check in skipped:
            self.assertGreater(len(check["check_result"]["suppress_comment"]), 30)

    def test_checkov_sees_what_is_open(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        text = (self.folder / "gpu.yaml").read_text()
        for safe, open_ in (("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"), ("runAsNonRoot: true", "runAsNonRoot: false")):
            self.assertIn(safe, text)
            text = text.replace(safe, open_)
        (folder / "open.yaml").write_text(text)
        report, done = self.checkov(folder)
        self.assertNotEqual(done.returncode, 0)
        self.assertLessEqual({"CKV_K8S_22"}, {check["check_id"] for check in report["results"]["failed_checks"]})

    def test_the_grace_period_is_longer_than_all_that_it_covers(self):
        for objects, pod in self.pods():
            [config] = [each for each in objects if each["kind"] == "ConfigMap" and "spillwayd.json" in each["data"]]
            settings = json.loads(config["data"]["spillwayd.json"])
            [container] = pod["containers"]
            covered_s = (container["lifecycle"]["preStop"]["sleep"]["seconds"]
                         + (settings["lame_duck_ms"] + settings["drain_timeout_ms"]) / 1000)
            self.assertGreater(pod["terminationGracePeriodSeconds"], covered_s)
            # Who resolves or checks every five seconds has noticed before calls are refused.
            self.assertGreater(settings["lame_duck_ms"] / 1000, container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"])

    def test_operators_calls_are_not_where_clients_come(self):
        for objects, pod in self.pods():
            [config] = [each for each in objects if each["kind"] == "ConfigMap" and "spillwayd.json" in each["data"]]
            host, port = json.loads(config["data"]["spillwayd.json"])["admin_listen"].rsplit(":", 1)
            self.assertEqual(host, "127.0.0.1")
            self.assertNotIn(int(port), [each["containerPort"] for each in pod["containers"][0]["ports"]])
            self.assertNotIn(int(port), [each["port"] for each in one(objects, "Service")["spec"]["ports"]])

    def test_who_may_call_is_who_the_guide_says(self):
        client = re.search(r'pods of the namespace with the label `([\w./-]+): "(\w+)"`', (ROOT / "docs" / "operations.md").read_text())
        client = {client[1]: client[2]}
        monitoring = {"kubernetes.io/metadata.name": "monitoring"}
        for _, objects in self.each():
            policy = one(objects, "NetworkPolicy")["spec"]
            daemon = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
            self.assertTrue(selects(policy["podSelector"], daemon))
            for other in ({}, {"app": "database"}, client):
                self.assertFalse(selects(policy["podSelector"], other), f"the policy takes {other}'s network away")

            def may(port, pod, namespace=None):
                return any(admitted(rule, pod, namespace) for rule in policy["ingress"] if port in [each["port"] for each in rule["ports"]])

            self.assertEqual(set(policy["policyTypes"]), {"Ingress", "Egress"})
            self.assertTrue(may("grpc", client), "the documented label alone")
            self.assertTrue(may("grpc", client | {"app": "shop"}))
            self.assertFalse(may("grpc", {}))
            self.assertFalse(may("grpc", {"app": "shop"}))
            self.assertFalse(may("grpc", daemon), "the daemons do not call each other")
            self.assertFalse(may("grpc", client, monitoring))
            self.assertFalse(may("metrics", client))
            self.assertTrue(may("metrics", {"app": "prometheus"}, monitoring))
            self.assertFalse(may("metrics", {"app": "prometheus"}, {"kubernetes.io/metadata.name": "default"}))

    def test_selectors_find_the_daemons(self):
        ours = {"app.kubernetes.io/name": "spillway", "app.kubernetes.io/part-of": "spillway"}
        for _, objects in self.each():
            deployment = one(objects, "Deployment")["spec"]
            # Cannot be changed in a cluster that has the Deployment.
            self.assertEqual(deployment["selector"], {"matchLabels": ours})
            daemon = deployment["template"]["metadata"]["labels"]
            self.assertTrue(selects(deployment["selector"], daemon))
            for selector in (one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], one(objects, "Service")["spec"]["selector"]):
                self.assertTrue(selector, "empty: every pod, or none")
                self.assertLessEqual(selector.items(), daemon.items())
            for each in objects:
                if each["kind"] in ("Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"):
                    self.assertLessEqual(ours.items(), each["metadata"]["labels"].items(), each["kind"])

    def test_requests_are_limits(self):
        for _, pod in self.pods():
            resources = pod["containers"][0]["resources"]
            self.assertEqual(resources["requests"], resources["limits"])
            self.assertTrue(resources["limits"]["cpu"].isdigit(), "whole cores, for the CPU manager")

    def test_only_the_gpu_overlays_ask_for_a_gpu(self):
        for name, objects in self.each():
            deployment = one(objects, "Deployment")
            container = deployment["spec"]["template"]["spec"]["containers"][0]
            device = {variable["name"]: variable.get("value") for variable in container["env"]}["SPILLWAY_DEVICE"]
            gpu = container["resources"]["limits"].get("nvidia.com/gpu")
            self.assertEqual((device, gpu), ("cpu", None) if name in ("overlays/cpu", "examples/hpa", "examples/keda") else ("cuda", "1"))
            self.assertEqual(deployment["spec"]["strategy"]["type"], "RollingUpdate" if device == "cpu" else "Recreate")

    def test_the_daemon_takes_every_setting(self):
        """The pod's arguments, environment and configuration file, given to spillwayd itself."""
        for objects, pod in self.pods():
            [config] = [each for each in objects if each["kind"] == "ConfigMap" and "spillwayd.json" in each["data"]]
            file = self.folder / "spillwayd.json"
            file.write_text(config["data"]["spillwayd.json"])
            container = pod["containers"][0]
            arguments = [argument.replace("/etc/spillway/spillwayd.json", str(file)) for argument in container["args"]]
            environment = {variable["name"]: variable["value"] for variable in container["env"]}
            done = subprocess.run([f"{OPTIONS.bin}/spillwayd", *arguments, "--print_config"], capture_output=True, text=True,
                                  check=False, env=daemons.environment() | environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            for name in environment:
                self.assertIn(name.removeprefix("SPILLWAY_").lower(), done.stdout)
            self.assertIn("0.0.0.0:8090", done.stdout)

    def test_a_plan_is_a_patch_for_an_overlay(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        plan = run(f"{OPTIONS.bin}/spillway", "plan", f"--profile={ROOT}/examples/profiles/h100-pcie5-opt-6.7b.json",
                   "--sequences=64", "--context=2048", "--stream_weights", "--device_memory=24GiB", "--kubernetes")
        self.assertEqual(plan.returncode, 0, plan.stderr)
        (folder / "plan.yaml").write_text(plan.stdout)
        base = os.path.relpath((KUBERNETES / "overlays" / "gpu").resolve(), folder.resolve())
        (folder / "kustomization.yaml").write_text(f"resources: [{base}]\npatches: [{{path: plan.yaml}}]\n")
        text = rendered(folder)
        (folder / "rendered.yaml").write_text(text)
        done = run("kubernetes-validate", "--strict", folder / "rendered.yaml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        container = one(yaml.safe_load_all(text), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        # 64 sequences of 2048 tokens, each 2 * 4096 * 2 bytes in 32 layers: 64 GiB.
        self.assertEqual(environment["SPILLWAY_HOST_POOL"], "65536MiB")
        self.assertEqual(environment["SPILLWAY_WEIGHTS_ON"], "host")
        self.assertEqual(environment["SPILLWAY_DEVICE"], "cuda")  # the overlay's
        self.assertEqual(container["resources"]["requests"], container["resources"]["limits"])
        self.assertGreater(int(container["resources"]["limits"]["memory"].removesuffix("Mi")), 65536 + 12000)
        done = subprocess.run([f"{OPTIONS.bin}/spillwayd", "--print_config"], capture_output=True, text=True, check=False,
                              env=daemons.environment() | environment)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_autoscalers_own_the_replicas(self):
        for example in ("examples/hpa", "examples/keda"):
            self.assertNotIn("replicas", one(self.objects[example], "Deployment")["spec"])
        metric = one(self.objects["examples/hpa"], "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
        query = one(self.objects["examples/keda"], "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
        self.assertEqual(metric_names.unknown([metric, query]), [])

    def test_what_scales_on_a_metric_has_what_collects_it(self):
        scaled = 0
        for _, objects in self.each():
            kinds = {each["kind"] for each in objects}
            if not kinds & {"HorizontalPodAutoscaler", "ScaledObject"}:
                continue
            scaled += 1
            self.assertIn("PodMonitor", kinds)
            labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
            self.assertTrue(selects(one(objects, "PodMonitor")["spec"]["selector"], labels))
            self.assertEqual(one(objects, "PodMonitor")["metadata"]["namespace"], one(objects, "Deployment")["metadata"]["namespace"])
        self.assertGreaterEqual(scaled, 2)

    def test_an_overlays_label_is_on_what_a_chart_selects_by_it(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        [labels] = re.findall(r"add `(labels: .*?)` to your overlay", (ROOT / "docs" / "operations.md").read_text())
        base = os.path.relpath((KUBERNETES / "overlays" / "monitoring").resolve(), folder.resolve())
        (folder / "kustomization.yaml").write_text(f"resources: [{base}]\n{labels}\n")
        objects = list(yaml.safe_load_all(rendered(folder)))
        for kind in ("PodMonitor", "PrometheusRule"):
            self.assertEqual(one(objects, kind)["metadata"]["labels"]["release"], "NAME")
        self.assertEqual(one(objects, "Deployment")["spec"]["selector"], one(self.objects["overlays/monitoring"], "Deployment")["spec"]["selector"])

    def test_replicas_with_a_gpu_each_share_nothing_that_one_node_has(self):
        """The guide's patch for the GPU overlay."""
        [patch] = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "docs" / "operations.md").read_text())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "replicas.yaml").write_text(patch)
        base = os.path.relpath((KUBERNETES / "overlays" / "gpu").resolve(), folder.resolve())
        (folder / "kustomization.yaml").write_text(f"resources: [{base}]\npatches: [{{path: replicas.yaml}}]\n")
        text = rendered(folder)
        (folder / "rendered.yaml").write_text(text)
        done = run("kubernetes-validate", "--strict", folder / "rendered.yaml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        objects = list(yaml.safe_load_all(text))
        deployment = one(objects, "Deployment")["spec"]
        self.assertGreater(deployment["replicas"], 1)
        self.assertEqual(deployment["strategy"]["type"], "RollingUpdate")
        of_one_node = {each["metadata"]["name"] for each in objects
                       if each["kind"] == "PersistentVolumeClaim" and each["spec"]["accessModes"] == ["ReadWriteOnce"]}
        self.assertEqual(of_one_node, {"spillway-cache"})
        mounted = {volume["persistentVolumeClaim"]["claimName"] for volume in deployment["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume}
        self.assertEqual(mounted & of_one_node, set())
        self.assertIn({"name": "cache", "emptyDir": {"sizeLimit": "64Mi"}}, deployment["template"]["spec"]["volumes"])

    def test_no_shipped_deployment_of_several_shares_what_one_node_has(self):
        for _, objects in self.each():
            deployment = one(objects, "Deployment")["spec"]
            if deployment.get("replicas", 2) == 1:
                continue
            claims = {each["metadata"]["name"]: each["spec"]["accessModes"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
            for volume in deployment["template"]["spec"]["volumes"]:
                if "persistentVolumeClaim" in volume:
                    self.assertNotEqual(claims[volume["persistentVolumeClaim"]["claimName"]], ["ReadWriteOnce"])

    def test_a_start_that_does_not_end_is_told_before_the_probe_ends_it(self):
        [alert] = [rule for rule in expressions.rules() if rule.get("alert") == "SpillwayNotReady"]
        for _, pod in self.pods():
            probe = pod["containers"][0]["startupProbe"]
            allowed_min = probe["periodSeconds"] * probe["failureThreshold"] / 60
            alert_min = int(re.fullmatch(r"(\d+)m", alert["for"])[1])
            self.assertLess(alert_min, allowed_min)
            self.assertGreater(alert_min, allowed_min * 2 / 3, "a start that the probe allows pages")

    def test_the_guide_names_the_version_that_the_manifests_need(self):
        text = (ROOT / "docs" / "operations.md").read_text()
        for _, pod in self.pods():
            self.assertEqual(set(pod["containers"][0]["lifecycle"]["preStop"]), {"sleep"})
        self.assertIn("Kubernetes has to be 1.30 or later", text)

    def test_what_prometheus_operator_and_grafana_get_is_what_the_tests_saw(self):
        objects = self.objects["overlays/monitoring"]
        groups = one(objects, "PrometheusRule")["spec"]["groups"]
        self.assertEqual(groups, [group for file in ("spillway-recording.rules.yml", "spillway-alerts.rules.yml")
                                  for group in yaml.safe_load((ROOT / "deploy/prometheus" / file).read_text())["groups"]])
        [dashboards] = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "spillway-dashboards"]
        self.assertEqual({pathlib.Path(name).stem: json.loads(text) for name, text in dashboards["data"].items()},
                         expressions.dashboards())
        self.assertEqual(dashboards["metadata"]["labels"]["grafana_dashboard"], "1")
        # The monitor finds the pods and their port.
        monitor, deployment = one(objects, "PodMonitor"), one(objects, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), labels.items())
        ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
        self.assertIn(monitor["spec"]["podMetricsEndpoints"][0]["port"], ports)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=sys.argv[:1] + rest)
