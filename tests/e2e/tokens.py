"""JSON Web Tokens, and a provider of OpenID Connect that signs them."""
import base64
import contextlib
import hmac
import http.server
import json
import pathlib
import ssl
import subprocess
import tempfile
import threading
import time

import web

ISSUER = "https://id.example.org"


def encoded(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(claims, head):
    return ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))


def jwt(claims, secret, head={"alg": "HS256", "typ": "JWT"}):
    """Returns a token signed with HS256, whatever its head says."""
    text = unsigned(claims, head)
    return f"{text}.{encoded(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


def read_jwt(authorization, secret, audience):
    """Returns the claims of a good token signed with HS256, as another program than ours would read it; {} if there is none."""
    head, claims, signature = f"{authorization or ''}..".removeprefix("Bearer ").split(".")[:3]
    if not hmac.compare_digest(signature, encoded(hmac.digest(secret.encode(), f"{head}.{claims}".encode(), "sha256"))):
        return {}
    claims = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return claims if claims["aud"] == audience and claims["exp"] > time.time() else {}


class Provider:
    """A provider with one RSA key. jwks: the keys that it publishes at jwks_uri, whose certificate is in the file certificate."""

    def __init__(self, home):
        self.key, self.certificate = home / "key.pem", home / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", self.key, "-out", self.certificate], check=True, stderr=subprocess.DEVNULL)
        modulus = self.openssl("rsa", "-in", self.key, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
        self.jwks = json.dumps({"keys": [{"kty": "RSA", "use": "enc", "kid": "two", "n": encoded(b"\1" * 256), "e": "AQAB"},
                                         {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": encoded(bytes.fromhex(modulus)), "e": "AQAB"}]})

    @staticmethod
    def openssl(*arguments, **options):
        return subprocess.run(["openssl", *arguments], check=True, capture_output=True, **options).stdout

    def token(self, user="ann", head={}, **claims):
        """Returns a token for this user, which is good for a minute unless the claims say something else. None: without that claim."""
        claims = {"iss": ISSUER, "sub": user, "aud": ["account", "pgpoll"], "exp": int(time.time()) + 60, **claims}
        text = unsigned({name: value for name, value in claims.items() if value is not None}, {"alg": "RS256", "typ": "JWT", "kid": "one", **head})
        return f"{text}.{encoded(self.openssl('dgst', '-sha256', '-sign', self.key, input=text.encode()))}"


@contextlib.contextmanager
def provider():
    """Yields a provider that answers HTTPS at its jwks_uri."""
    class Keys(web.Handler):
        def do_GET(self):
            self.answer(200, known.jwks.encode(), {"Content-Type": "application/json"})

    with tempfile.TemporaryDirectory(prefix="pgpoll-provider-", dir="/tmp") as home, \
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys) as listening:
        known = Provider(pathlib.Path(home))
        pathlib.Path(home).chmod(0o755)     # a web server reads the files below
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(known.certificate, known.key)
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        known.jwks_uri = f"https://127.0.0.1:{listening.server_port}/jwks"
        known.keys = known.certificate.with_name("keys.json")
        known.keys.write_text(known.jwks)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield known
        finally:
            listening.shutdown()


class OpenID:
    """Edits the files of nginx and Apache in deploy/ as an operator would whose users come from this provider, and pages from these origins."""
    modules = {"nginx": ["http-js"], "apache": ["auth_openidc", "headers"]}

    def __init__(self, known, *origins):
        self.known, self.origins = known, "|".join(origins) or "https://app\\.example\\.org"

    def replaced(self, text, *pairs):
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text.replace(r"^https://(www|app)\.example\.org$", f"^({self.origins})$")

    def nginx(self, text):
        for section in "Or check the tokens", "CORS headers for", "Tokens of an OpenID", "A 401 that pages":
            text = web.uncomment(text, section)
        return self.replaced(text, ("/etc/nginx/pgpoll-keys.json;", f"{self.known.keys};"))

    def apache(self, text):
        for section in "Or check the tokens", "CORS headers for", "The provider of OpenID":
            text = web.uncomment(text, section)
        return self.replaced(text, ("https://id.example.org/jwks", self.known.jwks_uri)) + f"OIDCCABundlePath {self.known.certificate}\n"

    def fronting(self, name):
        """Options for web.SERVERS[name]."""
        return {"edit": getattr(self, name), "modules": self.modules[name]}
