"""The jobs to copy in ``scripts/jobs``: their syntax, and that the command line has what they call."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from featurecache.cli.app import app

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "scripts" / "jobs"
SLURM, CRON, CONTAINER = JOBS / "slurm_array.sh", JOBS / "featurecache.cron", JOBS / "Containerfile"
SLURM_RAY, KUBERAY = JOBS / "slurm_ray.sh", JOBS / "kuberay.yaml"
UNITS = (JOBS / "featurecache.service", JOBS / "featurecache.timer")


def text_of(path):
    """Return a file in lines: long ones are joined, those of comments as well."""
    return re.sub(r"\\\n#?\s*", " ", path.read_text("utf-8"))


def commands(path):
    """Return the arguments of every ``featurecache COMMAND …`` in a file, also in comments; variables are 1."""
    text = re.sub(r"\$\w+", "1", text_of(path))
    found = re.findall(r"(?:^|[ '/])featurecache ([a-z]+ [^'>\n]+)", text, re.MULTILINE)
    known = typer.main.get_command(app).commands
    return [words for words in map(shlex.split, found) if words[0] in known]


def unit(path):
    """Parse a unit file."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str
    parser.read(path, "utf-8")
    return parser


@pytest.mark.parametrize(
    ("path", "called"),
    [
        (SLURM, ["merge", "extract"]),
        (CRON, ["extract", "verify"]),
        (UNITS[0], ["extract"]),
        (CONTAINER, ["extract"]),
        (KUBERAY, ["extract"]),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_the_command_line_takes_every_command_of_a_job(path, called):
    found = commands(path)
    assert [name for name, *_ in found] == called
    for name, *arguments in found:
        command = typer.main.get_command(app).commands[name]
        command.make_context(name, arguments)  # raises a usage error


def test_every_job_is_tested_and_short():
    assert sorted(JOBS.iterdir()) == sorted((SLURM, SLURM_RAY, KUBERAY, CRON, CONTAINER, *UNITS))
    assert all(len(path.read_text("utf-8").splitlines()) <= 45 for path in JOBS.iterdir())


def test_the_slurm_job_extracts_one_part_per_task(tmp_path):
    subprocess.run([shutil.which("bash"), "-n", SLURM], check=True)
    directives = re.findall(r"^#SBATCH (.+)$", SLURM.read_text("utf-8").partition("\nset ")[0], re.MULTILINE)
    assert len(directives) == 6
    assert all(re.fullmatch(r"--[a-z-]+=\S+", directive) for directive in directives)
    program = tmp_path / "featurecache"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    bash = [shutil.which("bash"), SLURM]
    done = subprocess.run(
        bash,
        env=environment | {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("extract photos part-2.h5 --part 2/4 ")
    done = subprocess.run(bash, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "sbatch --array" in done.stderr


def test_the_slurm_job_of_a_cluster_starts_ray_on_all_nodes_and_ends_it(tmp_path):
    calls = tmp_path / "calls"
    programs = {
        "ray": f'echo "ray $*" >> {calls}',
        "srun": f'echo "srun $*" >> {calls}',
        "hostname": "echo 10.0.0.1",
        "featurecache": f"until grep -q srun {calls}; do sleep 0.01; done\n"
        f'echo "featurecache $* $RAY_AUTH_MODE ${{#RAY_AUTH_TOKEN}}" >> {calls}; exit 3',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NUM_NODES": "4", "SLURMD_NODENAME": "n1"}
    done = subprocess.run([shutil.which("bash"), SLURM_RAY, "photos", "photos.h5"], env=environment, check=False)
    assert done.returncode == 3  # the driver's
    said = calls.read_text("utf-8").splitlines()
    nodes = "srun --nodes=3 --ntasks=3 --exclude=n1 ray start --address=10.0.0.1:6379 --block"
    assert nodes in said  # in the background
    head, *driver = (line for line in said if line != nodes)
    assert head.startswith("ray start --head --node-ip-address=10.0.0.1 --port=6379 ")
    assert driver == ["featurecache extract photos photos.h5 --cluster 10.0.0.1:6379 token 64", "ray stop"]


def test_the_kubernetes_job_mounts_the_volume_that_it_reads():
    spec = yaml.safe_load(KUBERAY.read_text("utf-8"))["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes
        assert all(
            mount["mountPath"] == "/data" for container in pod["containers"] for mount in container["volumeMounts"]
        )


def test_the_cron_table_has_five_fields_of_time_and_a_command():
    lines = [line for line in CRON.read_text("utf-8").splitlines() if line and not line.startswith(("#", "PATH="))]
    assert len(lines) == 2
    for line in lines:
        *times, command = line.split(maxsplit=5)
        assert all(re.fullmatch(r"\d+|\*", time) for time in times)
        assert "%" not in command  # cron reads it as the end of the line
        subprocess.run([shutil.which("bash"), "-n", "-c", command], check=True)


def test_the_units_can_be_read():
    service, timer = map(unit, UNITS)
    assert service.sections() == ["Unit", "Service"]
    assert service["Service"]["SuccessExitStatus"] == "143"
    assert timer.sections() == ["Unit", "Timer", "Install"]
    analyze = shutil.which("systemd-analyze")
    if analyze:
        subprocess.run([analyze, "calendar", timer["Timer"]["OnCalendar"]], capture_output=True, check=True)


def test_the_container_copies_what_is_there():
    lines = [line for line in text_of(CONTAINER).splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {"FROM", "COPY", "RUN", "USER", "WORKDIR", "ENTRYPOINT"}
    sources = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert sources == ["pyproject.toml", "README.md", "LICENSE", "featurecache", "heads"]
    assert all((ROOT / name).exists() for name in sources)
