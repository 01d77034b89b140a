"""A server of Backblaze B2's own protocol, for tests; it prints its URL.

Objects are files below DIR/blobs, what is known of them a JSON line a change in DIR/log, which is read again at the
start: kill -9 loses nothing that was acknowledged. POST /_fault {"match": "b2_upload_file", "status": 503, "times": 2,
"retry_after": 1, "delay": 0, "cut": N (bytes of a download), "reset": true} does harm; GET /_log has the requests.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit


class Err(Exception):
    def __init__(self, status, code, message=""):
        self.status, self.code, self.message = status, code, message


class Store:
    def __init__(self, root):
        self.root, self.lock = root, threading.RLock()
        os.makedirs(root + "/blobs", exist_ok=True)
        self.buckets, self.files, self.names, self.parts, self.seq = {}, {}, {}, {}, 0
        if os.path.exists(root + "/log"):
            for line in open(root + "/log"):
                if line.endswith("\n"):
                    self.apply(json.loads(line))
        self.log = open(root + "/log", "a")

    def commit(self, op, **kw):
        with self.lock:
            kw["op"] = op
            self.log.write(json.dumps(kw) + "\n")
            self.log.flush()
            self.apply(kw)

    def apply(self, e):
        op = e["op"]
        if "f" in e:
            e["f"]["size"] = e["f"]["contentLength"]
        if op == "bucket":
            self.buckets[e["b"]["bucketId"]] = e["b"]
        elif op == "rmbucket":
            del self.buckets[e["id"]]
        elif op == "file":
            f = e["f"]
            self.files[f["fileId"]] = f
            self.seq = max(self.seq, int(f["fileId"][-9:]))
            if f["action"] != "start":
                l = self.names.setdefault((f["bucketId"], f["fileName"]), [])
                if f["fileId"] not in l:
                    l.insert(0, f["fileId"])
        elif op == "part":
            self.parts.setdefault(e["id"], {})[e["p"]["partNumber"]] = e["p"]
        elif op == "rm":
            f = self.files.pop(e["id"])
            self.parts.pop(e["id"], None)
            l = self.names.get((f["bucketId"], f["fileName"]), [])
            if e["id"] in l:
                l.remove(e["id"])
            if not l:
                self.names.pop((f["bucketId"], f["fileName"]), None)

    def new_id(self, b):
        with self.lock:
            self.seq += 1
            return f"4_z{b}_f{self.seq:09d}"

    def blob(self, i):
        return f"{self.root}/blobs/{i}"


class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    S: Store

    def reply(self, status, obj=None, headers=(), body=None):
        body = json.dumps(obj).encode() if body is None else body
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        if obj is not None:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def die(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def drain(self):
        n = self.left
        while n > 0:
            c = self.rfile.read(min(n, 1 << 20))
            if not c:
                break
            n -= len(c)
        self.left = 0

    def handle_any(self):
        u = urlsplit(self.path)
        self.q = {k: v[0] for k, v in parse_qs(u.query).items()}
        self.left = int(self.headers.get("Content-Length") or 0)
        srv = self.server
        self.cut = None
        if u.path == "/_fault":
            srv.faults.append(json.loads(self.rfile.read(self.left)))
            return self.reply(200, {})
        if u.path == "/_log":
            return self.reply(200, list(srv.seen))
        srv.seen.append([self.command, u.path])
        for f in list(srv.faults):
            if re.search(f.get("match", ""), u.path):
                f["times"] = f.get("times", 1) - 1
                if f["times"] <= 0:
                    srv.faults.remove(f)
                time.sleep(f.get("delay", 0))
                self.cut = f.get("cut")
                if f.get("reset"):
                    return self.die()
                if "status" in f:
                    self.drain()
                    return self.reply(
                        f["status"],
                        dict(status=f["status"], code=f.get("code", "internal_error"), message="injected"),
                        [("Retry-After", str(f["retry_after"]))] if "retry_after" in f else [],
                    )
                break
        try:
            m = re.match(r"/b2api/v(\d)/(b2_\w+)(?:/(.*))?$", u.path)
            if u.path.startswith("/file/"):
                _, _, b, n = u.path.split("/", 3)
                self.download(self.by_name(b, unquote(n.replace("+", "%20"))))
            elif not m:
                raise Err(404, "not_found", u.path)
            else:
                self.v = int(m[1])
                name, rest = m[2], m[3]
                if name in ("b2_upload_file", "b2_upload_part"):
                    self.reply(200, getattr(self, name)(rest))
                elif name == "b2_download_file_by_id":
                    p = self.q or json.loads(self.rfile.read(self.left) or b"{}")
                    f = self.S.files.get(p["fileId"])
                    if not f or f["action"] != "upload":
                        raise Err(404, "not_found")
                    self.download(f)
                else:
                    p = json.loads(self.rfile.read(self.left) or b"{}") if self.command == "POST" else self.q
                    self.left = 0
                    fn = getattr(self, name, None)
                    if not fn:
                        raise Err(400, "bad_request", f"{name} is not simulated")
                    if name != "b2_authorize_account":
                        self.auth()
                    self.reply(200, fn(p))
        except Err as e:
            self.drain()
            self.reply(e.status, dict(status=e.status, code=e.code, message=e.message))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_HEAD = handle_any

    def auth(self, tokens=None):
        t = self.headers.get("Authorization")
        if t not in (self.server.tokens if tokens is None else tokens):
            raise Err(401, "expired_auth_token" if t in self.server.expired else "bad_auth_token", "bad token")

    def bucket(self, i):
        b = self.S.buckets.get(i)
        if not b:
            raise Err(400, "bad_bucket_id", f"Bucket {i} does not exist")
        return b

    def by_name(self, bn, n):
        for b in self.S.buckets.values():
            if b["bucketName"] == bn:
                l = self.S.names.get((b["bucketId"], n), [])
                if l and self.S.files[l[0]]["action"] == "upload":
                    return self.S.files[l[0]]
                raise Err(404, "not_found", "File with such name does not exist.")
        raise Err(404, "not_found", f"Bucket {bn} does not exist")

    def b2_authorize_account(self, p):
        k = base64.b64decode(self.headers.get("Authorization", " ").split()[-1]).decode().split(":", 1)
        s = self.server
        if k != [s.key_id, s.key]:
            raise Err(401, "unauthorized", "bad key")
        t = "4_" + secrets.token_hex(12)
        s.tokens.add(t)
        url = f"http://{self.headers['Host']}"
        caps = [
            "listKeys",
            "listBuckets",
            "listAllBucketNames",
            "readBuckets",
            "writeBuckets",
            "deleteBuckets",
            "listFiles",
            "readFiles",
            "shareFiles",
            "writeFiles",
            "deleteFiles",
        ]
        st = dict(
            apiUrl=url, downloadUrl=url, s3ApiUrl=url, recommendedPartSize=s.part, absoluteMinimumPartSize=s.min_part
        )
        base = dict(accountId="acct0", authorizationToken=t)
        if self.v >= 4:
            return dict(
                base,
                applicationKeyExpirationTimestamp=None,
                apiInfo=dict(
                    storageApi=dict(st, allowed=dict(buckets=None, capabilities=caps, namePrefix=None)), groupsApi={}
                ),
            )
        if self.v == 3:
            return dict(
                base,
                applicationKeyExpirationTimestamp=None,
                apiInfo=dict(storageApi=dict(st, bucketId=None, bucketName=None, capabilities=caps, namePrefix=None)),
            )
        return dict(base, allowed=dict(bucketId=None, bucketName=None, capabilities=caps, namePrefix=None), **st)

    def b2_list_buckets(self, p):
        return dict(
            buckets=[
                b
                for b in list(self.S.buckets.values())
                if p.get("bucketId") in (None, b["bucketId"]) and p.get("bucketName") in (None, b["bucketName"])
            ]
        )

    def b2_create_bucket(self, p):
        with self.S.lock:
            if any(b["bucketName"] == p["bucketName"] for b in self.S.buckets.values()):
                raise Err(400, "duplicate_bucket_name", "Bucket name is already in use.")
            b = dict(
                accountId="acct0",
                bucketId=secrets.token_hex(12),
                bucketName=p["bucketName"],
                bucketType=p["bucketType"],
                bucketInfo=p.get("bucketInfo") or {},
                corsRules=[],
                lifecycleRules=p.get("lifecycleRules") or [],
                options=[],
                revision=1,
                defaultServerSideEncryption=dict(isClientAuthorizedToRead=True, value=dict(mode="none")),
                fileLockConfiguration=dict(
                    isClientAuthorizedToRead=True,
                    value=dict(defaultRetention=dict(mode=None, period=None), isFileLockEnabled=False),
                ),
                replicationConfiguration=dict(isClientAuthorizedToRead=True, value=None),
            )
            self.S.commit("bucket", b=b)
            return b

    def b2_delete_bucket(self, p):
        b = self.bucket(p["bucketId"])
        if any(k[0] == b["bucketId"] for k in self.S.names):
            raise Err(400, "cannot_delete_non_empty_bucket", "")
        self.S.commit("rmbucket", id=b["bucketId"])
        return b

    def b2_get_upload_url(self, p):
        self.bucket(p["bucketId"])
        return dict(self.up("b2_upload_file", p["bucketId"]), bucketId=p["bucketId"])

    def b2_get_upload_part_url(self, p):
        self.started(p["fileId"])
        return dict(self.up("b2_upload_part", p["fileId"]), fileId=p["fileId"])

    def up(self, op, i):
        t = "4_up_" + secrets.token_hex(8)
        self.server.up_tokens.add(t)
        return dict(uploadUrl=f"http://{self.headers['Host']}/b2api/v{self.v}/{op}/{i}/{t}", authorizationToken=t)

    def started(self, i):
        f = self.S.files.get(i)
        if not f or f["action"] != "start":
            raise Err(400, "bad_request", f"No active upload for: {i}")
        return f

    def receive(self, dest):
        n, want, h, tmp = (
            self.left,
            self.headers["X-Bz-Content-Sha1"],
            hashlib.sha1(),
            f"{dest}.{secrets.token_hex(4)}.tmp",
        )
        if self.server.max_bytes and n > self.server.max_bytes:
            raise Err(400, "bad_request", "too large")
        if want == "hex_digits_at_end":
            n -= 40
        size = n
        with open(tmp, "wb") as o:
            while n > 0:
                c = self.rfile.read(min(n, 1 << 18))
                if not c:
                    os.unlink(tmp)
                    raise ConnectionResetError
                o.write(c)
                h.update(c)
                n -= len(c)
                self.left -= len(c)
        if want == "hex_digits_at_end":
            want = self.rfile.read(40).decode()
            self.left = 0
        sha = h.hexdigest()
        if want not in (sha, "do_not_verify", "unverified:" + sha):
            os.unlink(tmp)
            raise Err(400, "bad_request", f"Sha1 did not match data received (got {sha})")
        os.replace(tmp, dest)
        return size, sha

    def entry(self, bid, name, action, fid=None, **kw):
        return dict(
            dict(
                accountId="acct0",
                bucketId=bid,
                fileId=fid or self.S.new_id(bid),
                fileName=name,
                contentLength=0,
                contentType=None,
                contentSha1=None,
                contentMd5=None,
                fileInfo={},
                action=action,
                uploadTimestamp=int(time.time() * 1000),
                fileRetention=dict(isClientAuthorizedToRead=True, value=dict(mode=None, retainUntilTimestamp=None)),
                legalHold=dict(isClientAuthorizedToRead=True, value=None),
                serverSideEncryption=dict(mode=None, algorithm=None),
                replicationStatus=None,
            ),
            **kw,
        )

    def b2_upload_file(self, rest):
        bid, tok = rest.split("/")
        self.auth(self.server.up_tokens)
        self.bucket(bid)
        name, fid = unquote(self.headers["X-Bz-File-Name"].replace("+", "%20")), self.S.new_id(bid)
        size, sha = self.receive(self.S.blob(fid))
        info = {k[10:].lower(): unquote(v) for k, v in self.headers.items() if k.lower().startswith("x-bz-info-")}
        f = self.entry(
            bid,
            name,
            "upload",
            fid,
            contentLength=size,
            contentSha1=sha,
            contentType=self.headers.get("Content-Type"),
            fileInfo=info,
        )
        self.S.commit("file", f=f)
        return f

    def b2_start_large_file(self, p):
        self.bucket(p["bucketId"])
        f = self.entry(
            p["bucketId"], p["fileName"], "start", contentType=p["contentType"], fileInfo=p.get("fileInfo") or {}
        )
        self.S.commit("file", f=f)
        return f

    def b2_upload_part(self, rest):
        fid, tok = rest.split("/")
        self.auth(self.server.up_tokens)
        self.started(fid)
        no = int(self.headers["X-Bz-Part-Number"])
        size, sha = self.receive(f"{self.S.blob(fid)}.{no}")
        d = dict(
            fileId=fid,
            partNumber=no,
            contentLength=size,
            contentSha1=sha,
            contentMd5=None,
            uploadTimestamp=int(time.time() * 1000),
        )
        self.S.commit("part", id=fid, p=d)
        return d

    def b2_list_parts(self, p):
        ps = sorted(
            (
                x
                for x in self.S.parts.get(p["fileId"], {}).values()
                if x["partNumber"] >= (p.get("startPartNumber") or 1)
            ),
            key=lambda x: x["partNumber"],
        )
        n = p.get("maxPartCount") or 100
        return dict(parts=ps[:n], nextPartNumber=ps[n]["partNumber"] if len(ps) > n else None)

    def b2_finish_large_file(self, p):
        with self.S.lock:
            f, ps = self.started(p["fileId"]), self.S.parts.get(p["fileId"], {})
            shas = p["partSha1Array"]
            if [ps.get(i + 1, {}).get("contentSha1") for i in range(len(shas))] != shas:
                raise Err(400, "missing_part", "parts do not match")
            if any(ps[i]["contentLength"] < self.server.min_part for i in range(1, len(shas))):
                raise Err(400, "bad_request", "part too small")
            with open(self.S.blob(f["fileId"]), "wb") as o:
                for i in range(1, len(shas) + 1):
                    with open(f"{self.S.blob(f['fileId'])}.{i}", "rb") as s:
                        while c := s.read(1 << 20):
                            o.write(c)
                    os.unlink(s.name)
            f = dict(f, action="upload", contentLength=sum(x["contentLength"] for x in ps.values()), contentSha1="none")
            self.S.commit("file", f=f)
            return f

    def b2_cancel_large_file(self, p):
        f = self.started(p["fileId"])
        self.S.commit("rm", id=f["fileId"])
        return dict(fileId=f["fileId"], accountId="acct0", bucketId=f["bucketId"], fileName=f["fileName"])

    def b2_list_unfinished_large_files(self, p):
        return dict(
            files=[
                f
                for f in list(self.S.files.values())
                if f["action"] == "start"
                and f["bucketId"] == p["bucketId"]
                and f["fileName"].startswith(p.get("namePrefix") or "")
            ],
            nextFileId=None,
        )

    def listing(self, p, versions):
        self.bucket(p["bucketId"])
        pre, d, n = p.get("prefix") or "", p.get("delimiter"), min(p.get("maxFileCount") or 100, 10000)
        sn, si, out, seen = p.get("startFileName") or "", p.get("startFileId"), [], None
        with self.S.lock:
            items = sorted(
                (k[1], list(v))
                for k, v in self.S.names.items()
                if k[0] == p["bucketId"] and k[1] >= sn and k[1].startswith(pre)
            )
        for name, ids in items:
            if d and (i := name.find(d, len(pre))) >= 0:
                fold = name[: i + len(d)]
                if fold == seen or fold < sn:
                    continue
                seen = fold
                cand = [dict(self.entry(p["bucketId"], fold, "folder", "x"), fileId=None)]
            else:
                cand = [self.S.files[i] for i in (ids if versions else ids[:1]) if i in self.S.files]
            for f in cand:
                if not versions and f["action"] == "hide":
                    continue
                if (
                    versions
                    and si
                    and name == sn
                    and f["fileId"] is not None
                    and ids.index(f["fileId"]) < (ids.index(si) if si in ids else 0)
                ):
                    continue
                if len(out) == n:
                    return dict(
                        files=out, nextFileName=f["fileName"], **(dict(nextFileId=f["fileId"]) if versions else {})
                    )
                out.append(f)
        return dict(files=out, nextFileName=None, **(dict(nextFileId=None) if versions else {}))

    def b2_list_file_names(self, p):
        return self.listing(p, False)

    def b2_list_file_versions(self, p):
        return self.listing(p, True)

    def b2_get_file_info(self, p):
        if p["fileId"] not in self.S.files:
            raise Err(404, "not_found")
        return self.S.files[p["fileId"]]

    def b2_hide_file(self, p):
        l = self.S.names.get((p["bucketId"], p["fileName"]), [])
        if not l:
            raise Err(400, "no_such_file", f"File not present: {p['fileName']}")
        if self.S.files[l[0]]["action"] == "hide":
            raise Err(400, "already_hidden", f"File already hidden: {p['fileName']}")
        f = self.entry(p["bucketId"], p["fileName"], "hide")
        self.S.commit("file", f=f)
        return f

    def b2_delete_file_version(self, p):
        with self.S.lock:
            f = self.S.files.get(p["fileId"])
            if not f or f["fileName"] != p["fileName"]:
                raise Err(400, "file_not_present", "File not present: " + p["fileName"])
            self.S.commit("rm", id=p["fileId"])
        try:
            os.unlink(self.S.blob(p["fileId"]))
        except FileNotFoundError:
            pass
        return dict(fileId=p["fileId"], fileName=p["fileName"])

    def download(self, f):
        self.drain()
        self.auth()
        n = f["contentLength"]
        a, z, st, r = 0, n - 1, 200, self.headers.get("Range")
        if r and (m := re.match(r"bytes=(\d*)-(\d*)$", r)):
            a, z = (int(m[1]), min(int(m[2] or n - 1), n - 1)) if m[1] else (max(n - int(m[2]), 0), n - 1)
            st = 206
            if a >= n:
                raise Err(416, "range_not_satisfiable", "The Range in the request is outside the size of the file.")
        self.send_response(st)
        for k, v in (
            [
                ("Content-Length", z - a + 1),
                ("Content-Type", f["contentType"]),
                ("Accept-Ranges", "bytes"),
                ("X-Bz-File-Id", f["fileId"]),
                ("X-Bz-File-Name", quote(f["fileName"], safe="/")),
                ("X-Bz-Content-Sha1", f["contentSha1"]),
                ("X-Bz-Upload-Timestamp", f["uploadTimestamp"]),
            ]
            + [("X-Bz-Info-" + k, quote(v)) for k, v in f["fileInfo"].items()]
            + ([("Content-Range", f"bytes {a}-{z}/{n}")] if st == 206 else [])
        ):
            self.send_header(k, str(v))
        self.end_headers()
        if self.command == "HEAD" or n == 0:
            return None
        with open(self.S.blob(f["fileId"]), "rb") as s:
            self.wfile.flush()
            if self.cut is not None:
                self.wfile.write(os.pread(s.fileno(), min(self.cut, z - a + 1), a))
                self.wfile.flush()
                time.sleep(0.05)
                return self.die()
            self.connection.sendfile(s, a, z - a + 1)


class Srv(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--port", type=int, default=0)
    ap.add_argument("--root", required=True)
    ap.add_argument("--key-id", default="keyid0")
    ap.add_argument("--key", default="appkey0")
    ap.add_argument("--min-part", type=int, default=5_000_000)
    ap.add_argument("--part", type=int, default=100_000_000)
    ap.add_argument("--max-bytes", type=int, default=5_000_000_000)
    o = ap.parse_args()
    import collections

    s = Srv(("127.0.0.1", o.port), H)
    H.S = Store(o.root)
    s.tokens, s.up_tokens, s.expired, s.faults, s.seen = set(), set(), set(), [], collections.deque(maxlen=10000)
    s.key_id, s.key, s.min_part, s.part, s.max_bytes = o.key_id, o.key, o.min_part, o.part, o.max_bytes
    print(f"http://127.0.0.1:{s.server_port}", flush=True)
    s.serve_forever()
