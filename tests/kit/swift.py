"""OpenStack Swift with its S3 face, on 127.0.0.1: a store on the disk that checks what it is sent."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kit.environments import installed
from kit.servers import Server, await_answer, free_port

PACKAGE = "swift==2.38.3"
KEY, SECRET = "pog:key", "pogsecretpogsecret"

COMMON = """
[swift-hash]
swift_hash_path_prefix = pog
swift_hash_path_suffix = fast
[storage-policy:0]
name = gold
default = yes
"""
NODE = """
[DEFAULT]
devices = {home}/srv
mount_check = false
disable_fallocate = true
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {home}/etc
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
fsync = off
"""
PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {home}/etc
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
check_bucket_owner = false
auth_pipeline_check = false
allow_multipart_uploads = true
[filter:tempauth]
use = egg:swift#tempauth
user_pog_key = pogsecretpogsecret .admin
"""
FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "copy", "slo", "dlo")
# Its programs look for their configuration in /etc before they read where it is.
LAUNCH = """
import runpy, sys
from swift.common import utils
from swift.common.storage_policy import reload_storage_policies
utils.set_swift_dir(sys.argv[1])
reload_storage_policies()
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextlib.contextmanager
def swift(home: Path) -> Iterator[Server]:
    """`home` is a directory of its own."""
    programs = installed("swift-2.38.3", PACKAGE)
    kinds = ("account", "container", "object")
    ports = {kind: free_port() for kind in (*kinds, "proxy")}
    (home / "etc").mkdir()
    (home / "srv" / "d1").mkdir(parents=True)
    (home / "etc" / "swift.conf").write_text(COMMON)
    for kind in kinds:
        text = NODE.format(home=home, port=ports[kind], kind=kind, user=getpass.getuser())
        (home / "etc" / f"{kind}-server.conf").write_text(text)
        for words in (["create", "2", "1", "0"], ["add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"], ["rebalance"]):
            builder: list[str | Path] = [programs / "swift-ring-builder", home / "etc" / f"{kind}.builder", *words]
            subprocess.run(builder, stdout=subprocess.DEVNULL, check=False)  # 1 is a warning: there is one replica
    plain = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in FILTERS)
    (home / "etc" / "proxy-server.conf").write_text(
        PROXY.format(home=home, port=ports["proxy"], user=getpass.getuser()) + plain
    )
    (home / "launch.py").write_text(LAUNCH)
    running: list[subprocess.Popen[bytes]] = []
    try:
        for kind in (*kinds, "proxy"):
            command: list[str | Path] = [programs / "python", home / "launch.py", home / "etc"]
            command += [programs / f"swift-{kind}-server", home / "etc" / f"{kind}-server.conf", "-v"]
            with open(home / f"{kind}.log", "wb") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "LC_ALL": "C"}))
            # Each before the next: the proxy leaves alone for a minute whoever it has once found missing.
            url = f"http://127.0.0.1:{ports[kind]}"
            await_answer(url)
        yield Server("swift", url, running[-1], KEY, SECRET)
    finally:
        for process in running:
            process.kill()
            process.wait()
