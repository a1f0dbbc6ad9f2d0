"""The container image without a container engine: the steps of the Dockerfile, done in a folder.

What it copies has to be there and has to be enough to build from; what it leaves in the last stage has to run as the user
it names, with the command and the health check it states.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import harness
import small_project
from harness import ROOT, Node

DEPLOY = ROOT / "deploy"
Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Stage → its instructions; the last stage is called `image`."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, *name = rest.split(" AS ")
            current = found.setdefault(name[0] if name else "image", [])
            current.append(("FROM", base))
        else:
            current.append((word, rest))
    return found


def last(stage: list[Instruction], word: str) -> str:
    return [rest for name, rest in stage if name == word][-1]


def ignored(path: str) -> bool:
    """The .dockerignore rules as far as they are used: the last rule that matches decides."""
    answer = False
    for rule in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n"):
        rule = rule.strip()
        if rule and not rule.startswith("#"):
            pattern = rule.lstrip("!")
            if pattern == "*" or path == pattern or path.startswith(f"{pattern}/"):
                answer = not rule.startswith("!")
    return answer


def stage_copies(name: str, folder: Path) -> None:
    """Does the COPY instructions of a stage that take files from the source tree."""
    instructions = stages()[name]
    workdir = folder / last(instructions, "WORKDIR").lstrip("/")
    for word, rest in instructions:
        if word != "COPY" or rest.startswith("--from"):
            continue
        *sources, target = shlex.split(rest)
        for source in sources:
            assert (ROOT / source).exists(), f"the Dockerfile copies {source}, which is not there"
            assert not ignored(source), f"the Dockerfile copies {source}, which .dockerignore leaves out"
            into = workdir / target
            (into if target.endswith("/") else into.parent).mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("node_modules", "dist", "target")
                shutil.copytree(ROOT / source, into, dirs_exist_ok=True, ignore=skip)
            else:
                shutil.copy(ROOT / source, into / Path(source).name if target.endswith("/") else into)


def test_the_binary_stage_has_all_that_cargo_reads(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    stage_copies("binary", tmp_path)
    host = re.search(r"host: (\S+)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout)
    assert host
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host[1]]
    done = subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package = next(package for package in json.loads(done.stdout)["packages"] if package["name"] == "thali")
    for target in package["targets"]:
        assert Path(target["src_path"]).is_file() or "tests" in target["kind"], target
    # Files that the source embeds at build time, wherever they lie.
    pattern = re.compile(r'include_(?:str|bytes)!\(\s*"([^"]+)"|#\[folder = "([^"]+)"\]|migrate!\("([^"]+)"')
    for source in (tmp_path / "source/src").rglob("*.rs"):
        for included, folder, migrations in pattern.findall(source.read_text()):
            if "tests/" in included:
                continue  # only the tests of that module read it
            if included:
                assert (source.parent / included).exists(), f"{source.name} includes {included}"
            elif folder != "ui/dist":  # comes from the stage that builds the page
                assert (tmp_path / "source" / (folder or migrations)).exists(), f"{source.name} embeds {folder or migrations}"


def test_the_page_stage_has_all_that_npm_reads(tmp_path: Path) -> None:
    stage_copies("page", tmp_path)
    ui = tmp_path / "source/ui"
    package = json.loads((ui / "package.json").read_text())
    assert "build" in package["scripts"] and (ui / "package-lock.json").is_file()
    for name in ("index.html", "vite.config.ts", "tsconfig.json", "src"):
        assert (ui / name).exists(), name
    copied = [rest for word, rest in stages()["binary"] if word == "COPY" and rest.startswith("--from=page")]
    assert copied == ["--from=page /source/ui/dist ui/dist"], "the page is built where the binary stage expects it"


def test_the_toolchains_are_those_of_the_sources() -> None:
    manifest = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'rust-version = "([\d.]+)"', manifest)
    assert version and last(stages()["binary"], "FROM").startswith(f"rust:{version[1]}-")


@pytest.fixture
def image() -> Iterator[Path]:
    """The root of the last stage: the binary where the Dockerfile puts it, and a repository in its work folder."""
    # Not under pytest's own folder, which nobody but its owner may enter.
    root = Path(tempfile.mkdtemp(prefix="thali-image-"))
    try:
        root.chmod(0o755)
        copies = [shlex.split(rest) for word, rest in stages()["image"] if word == "COPY"]
        assert [source for _, source, _ in copies] == ["/source/target/release/thali"], "one binary is all there is"
        target = root / copies[0][2].lstrip("/")
        target.parent.mkdir(parents=True)
        shutil.copy(harness.binary(), target)
        target.chmod(0o755)
        work = root / last(stages()["image"], "WORKDIR").lstrip("/")
        shutil.copytree(small_project.create(root / "made"), work)
        shutil.rmtree(root / "made")
        yield root
    finally:
        shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become the user of the image")
def test_the_image_serves_as_a_user_without_rights(image: Path) -> None:
    stage = stages()["image"]
    user = int(last(stage, "USER"))
    assert user != 0
    work = image / last(stage, "WORKDIR").lstrip("/")
    for path in [work, *work.rglob("*")]:
        os.chown(path, user, user)
    env = {"PATH": f"{image}/usr/local/bin:/usr/bin:/bin", "HOME": str(work)}
    options = {"cwd": work, "env": env, "user": user, "group": user, "extra_groups": []}
    entrypoint = json.loads(last(stage, "ENTRYPOINT"))

    applied = subprocess.run([*entrypoint, "apply"], capture_output=True, text=True, timeout=harness.DEADLINE, **options)
    assert applied.returncode == 0, applied.stderr

    # The command as it is, except for the ports, which other tests may be using.
    ports = [f"--{name}-port=0" for name in harness.PORTS]
    command = [*entrypoint, *json.loads(last(stage, "CMD")), *ports]
    log = image / "log"
    with open(log, "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, **options)
    node = Node(process, log)
    threading.Thread(target=node._read, daemon=True).start()
    try:
        node.wait_ready()
        assert os.stat(f"/proc/{process.pid}").st_uid == user
        check = json.loads(last(stage, "HEALTHCHECK").split("CMD", 1)[1])
        assert check[-1] == "http://127.0.0.1:8000/ready"
        metrics = node.addresses["metrics"].replace("0.0.0.0", "127.0.0.1")
        done = subprocess.run([*check[:-1], f"{metrics}/ready"], capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        node.signal()
        assert node.wait() == 0
        done = subprocess.run([*check[:-1], f"{metrics}/ready"], capture_output=True, text=True, **options)
        assert done.returncode == 1, "a dead server is not healthy"
    finally:
        node.kill()


@pytest.mark.parametrize("name", ["compose.yaml", "compose-split.yaml"])
def test_the_compose_files_run_the_image(name: str) -> None:
    services = yaml.safe_load((DEPLOY / name).read_text())["services"]
    exposed = set(last(stages()["image"], "EXPOSE").split())
    published = set()
    for service in services.values():
        build = service["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert service["volumes"][0].endswith(f":{last(stages()['image'], 'WORKDIR')}")
        published |= {port.split(":")[1] for port in service.get("ports", [])}
    assert published <= exposed and {"6566", "6570", "6572", "8815", "8888"} <= published
    if len(services) > 1:
        roles = {service["command"][service["command"].index("--role") + 1] for service in services.values()}
        assert roles == set(harness.ROLES)
