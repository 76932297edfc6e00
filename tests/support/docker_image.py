"""Docker for the cluster tests: a daemon that answers, and the hosts' image. Standard library only.

Run as a program (``python -m tests.support.docker_image build``) it builds the image with its progress shown;
the tests then find it by the hash of its content. Where no image can be pulled, the base comes from
debootstrap and this machine's own mirror.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE_TAG = "remote-launch-base:bookworm"
HOST_REPOSITORY = "remote-launch-host"
CONTENT_LABEL = "remote-launch.content"
HOST_FOLDER = Path(__file__).resolve().parents[1] / "cluster" / "host"
CA_BUNDLES = tuple(
    map(Path, ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"))
)
DAEMON_START_S = 180
DAEMON_STOP_S = 60
DOWNLOADS = 3  # tries of a step that fetches packages


class DockerUnavailableError(Exception):
    """Docker can't be used on this machine; the message says why, for a skip."""


class DockerError(Exception):
    """A docker command failed; the message holds what it said."""


def docker(
    *words: str, timeout_s: float = 600, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the docker CLI, return what it said. Raises DockerError when it fails, unless ``check`` is off."""
    done = subprocess.run(
        ["docker", *words], input=stdin or "", capture_output=True, timeout=timeout_s,
        text=True, errors="replace",
    )
    if check and done.returncode != 0:
        said = done.stderr + done.stdout
        raise DockerError(f"docker {' '.join(words[:3])} …: exit code {done.returncode}\n{said}")
    return done


def daemon_answers() -> bool:
    """True when the docker CLI is here and a daemon answers it."""
    if shutil.which("docker") is None:
        return False
    try:
        return docker("version", "--format", "{{.Server.Version}}", timeout_s=60, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def start_daemon(folder: Path) -> subprocess.Popen[bytes] | None:
    """Return the dockerd started here, or None when one answers. Raises DockerUnavailableError.

    Its own data stays where it always is; its log and pid file go to ``folder``.
    """
    if shutil.which("docker") is None:
        raise DockerUnavailableError("docker is not installed")
    if daemon_answers():
        return None
    dockerd = shutil.which("dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if dockerd is None:
        raise DockerUnavailableError("no docker daemon answers and dockerd is not installed")
    if os.geteuid() != 0:
        raise DockerUnavailableError("no docker daemon answers, and only root can start one")
    _forget_dead_daemon()
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [dockerd, "--pidfile", str(folder / "dockerd.own-pid")],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )
    deadline = time.monotonic() + DAEMON_START_S
    try:
        while not daemon_answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").splitlines()[-5:]
                raise DockerUnavailableError("dockerd does not start here: " + " | ".join(said))
            time.sleep(0.1)
    except BaseException:
        if daemon.poll() is None:
            stop_daemon(daemon.pid)
        raise
    return daemon


def stop_daemon(pid: int) -> None:
    """End the dockerd that ``start_daemon`` started and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DAEMON_STOP_S
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    if _alive(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # our own child, unreaped, would look alive
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _forget_dead_daemon() -> None:
    """Remove a containerd pid file that names another program (after a reboot): dockerd would wait for it."""
    pid_file = Path("/var/run/docker/containerd/containerd.pid")
    try:
        name = Path(f"/proc/{int(pid_file.read_text())}/comm").read_text().strip()
    except (OSError, ValueError):
        return
    if name != "containerd":
        pid_file.unlink()


@contextlib.contextmanager
def running_daemon() -> Iterator[None]:
    """For the length of a ``with``: a daemon that answers. One that was started for it is ended after it."""
    with tempfile.TemporaryDirectory(prefix="remote-launch-dockerd-") as folder:
        daemon = start_daemon(Path(folder))
        try:
            yield
        finally:
            if daemon is not None:
                stop_daemon(daemon.pid)
                daemon.poll()  # it was waited for by its pid: an unwaited child is a warning


def compose_command() -> str:
    """Return how compose is called here. Raises DockerUnavailableError when it is not installed."""
    if shutil.which("docker") and docker("compose", "version", check=False).returncode == 0:
        return "docker compose"
    if shutil.which("docker-compose"):
        return "env COMPOSE_HTTP_TIMEOUT=600 docker-compose"  # 60 s are little for a busy daemon
    raise DockerUnavailableError("neither `docker compose` nor `docker-compose` is installed")


def host_image() -> str:
    """Return the tag of the hosts' image for the files as they are now; it may not be built yet."""
    digest = hashlib.sha256()
    for path in [*sorted(HOST_FOLDER.iterdir()), _ca_bundle()]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{HOST_REPOSITORY}:{digest.hexdigest()[:16]}"


def image_exists(tag: str) -> bool:
    return docker("image", "inspect", tag, check=False).returncode == 0


def build_host_image(*, verbose: bool = False) -> str:
    """Return the tag of the hosts' image, built unless it is here. Raises DockerUnavailableError."""
    tag = host_image()
    if image_exists(tag):
        return tag
    ensure_base(verbose=verbose)
    trial = docker("run", "--rm", BASE_TAG, "true", check=False)
    if trial.returncode != 0:
        raise DockerUnavailableError(f"containers can't run here: {trial.stderr.strip()[:300]}")
    with tempfile.TemporaryDirectory(prefix="remote-launch-image-") as context:
        shutil.copytree(HOST_FOLDER, context, dirs_exist_ok=True)
        shutil.copyfile(_ca_bundle(), Path(context) / "ca-certificates.crt")
        label = f"{CONTENT_LABEL}={tag.partition(':')[2]}"
        _run(["docker", "build", "--label", label, "-t", tag, context], verbose=verbose)
    return tag


def ensure_base(*, verbose: bool) -> None:
    """Have an image of a bare Debian under BASE_TAG: pulled, or made here. Raises DockerUnavailableError."""
    if image_exists(BASE_TAG):
        return
    with contextlib.suppress(subprocess.TimeoutExpired):
        if docker("pull", "-q", "debian:bookworm-slim", timeout_s=300, check=False).returncode == 0:
            docker("tag", "debian:bookworm-slim", BASE_TAG)
            return
    debootstrap = shutil.which("debootstrap", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if debootstrap is None or os.geteuid() != 0:
        raise DockerUnavailableError("no image can be pulled, and making one needs debootstrap and root")
    with tempfile.TemporaryDirectory(prefix="remote-launch-base-") as folder:
        rootfs = Path(folder) / "rootfs"
        suite, mirror = _mirror()
        if verbose:
            print("no image can be pulled: making a base with debootstrap (about a minute)", flush=True)
        # debootstrap names the mirror in each line it prints: its output is shown only when it fails.
        options = ["--variant=minbase", "--include=ca-certificates"]
        _run([debootstrap, *options, suite, str(rootfs), mirror], verbose=False, makes=rootfs)
        shutil.rmtree(rootfs / "var/cache/apt/archives", ignore_errors=True)
        with subprocess.Popen(["tar", "-C", str(rootfs), "-c", "."], stdout=subprocess.PIPE) as tar:
            importing = ["docker", "import", "-", BASE_TAG]
            subprocess.run(importing, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)


def _mirror() -> tuple[str, str]:
    """Return the Debian release to make and the mirror that this machine's own apt uses for it."""
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", form, "Identifier: Packages"],
        capture_output=True, text=True,
    ).stdout.splitlines()
    found = {}
    for line in listed:
        release, _, rest = line.partition(" ")
        component, _, address = rest.partition(" ")
        if component == "main" and release:
            found.setdefault(release, address)
    for release in ("bookworm", "trixie"):
        if release in found:
            return release, found[release]
    raise DockerUnavailableError("no image can be pulled, and this machine's apt knows no Debian release")


def _ca_bundle() -> Path:
    for path in CA_BUNDLES:
        if path.is_file():
            return path
    raise DockerUnavailableError(f"no bundle of certificate authorities at {CA_BUNDLES[0]}")


def _run(argv: list[str], *, verbose: bool, makes: Path | None = None) -> None:
    """Run a long step that fetches packages: more than once if need be, without what a try has made. Quiet,
    it shows the last lines when it fails."""
    output = None if verbose else subprocess.PIPE
    for left in reversed(range(DOWNLOADS)):
        done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode == 0:
            return
        tail = "\n".join((done.stdout or "").splitlines()[-25:])
        failure = f"{Path(argv[0]).name} {argv[1]}: exit code {done.returncode}\n{tail}"
        if not left:
            raise RuntimeError(failure)
        print(f"trying again: {failure}", flush=True)
        if makes is not None:
            shutil.rmtree(makes, ignore_errors=True)


def main() -> int:
    """``base``, ``build``: start a daemon if none answers, make that image. ``stop``: end that daemon."""
    parser = argparse.ArgumentParser(description="the image of the cluster tests' hosts")
    parser.add_argument("what", choices=["base", "build", "stop"])
    parser.add_argument("--daemon-pid-file", type=Path, required=True, help="pid of a daemon started here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no daemon is left that nobody knows of
    if options.what == "stop":
        if options.daemon_pid_file.exists():
            stop_daemon(int(options.daemon_pid_file.read_text()))
            options.daemon_pid_file.unlink()
        return 0
    try:
        daemon = start_daemon(options.daemon_pid_file.parent)
        if daemon is not None:
            options.daemon_pid_file.write_text(str(daemon.pid))
        started = time.monotonic()
        if options.what == "base":
            ensure_base(verbose=True)
            return 0
        tag = build_host_image(verbose=True)
    except DockerUnavailableError as error:
        print(f"no cluster tests: {error}", flush=True)
        return 0
    print(f"image {tag} ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
