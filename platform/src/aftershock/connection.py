"""Connection pool and credentials of a cluster; the only module that imports `kubernetes`.

They are the Kubernetes client's, except where a token is all there is: loading the client takes longer than most of our commands.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import urllib3

from aftershock.credentials import Credentials, Fixed, Plugin, TokenFile
from aftershock.errors import BadInput
from aftershock.kubeconfig import Access

CONNECTIONS_MAX = 32
Connection = tuple[urllib3.PoolManager, Credentials]


def of(access: Access) -> Connection:
    """The pool and the credentials for a context. Raises BadInput."""
    return _plain(access) or _client(access)


def _plain(access: Access) -> Connection | None:
    """A cluster of this machine that wants a token and nothing else, as pocketkube does; None for any other."""
    (user,), (cluster,) = ([entry[kind] for entry in access.document[f"{kind}s"]] for kind in ("user", "cluster"))
    if (
        not _local(access)
        or len(user) != 1
        or not set(user) <= {"token", "tokenFile"}
        or not set(cluster) <= {"server", "certificate-authority-data"}
    ):
        return None
    pool = urllib3.PoolManager(maxsize=CONNECTIONS_MAX)
    if access.server.startswith("https://"):
        authorities = base64.b64decode(cluster.get("certificate-authority-data", "")).decode() or None
        pool.connection_pool_kw["ssl_context"] = _tls(access, authorities)
    return pool, _file_of(user) or Fixed({"authorization": f"Bearer {user['token']}"})


def _file_of(user: Mapping[str, Any]) -> TokenFile | None:
    """As in client-go, a file goes before a token."""
    return TokenFile(Path(user["tokenFile"])) if user.get("tokenFile") else None


def _client(access: Access) -> Connection:
    """The Kubernetes client's own, its TLS context made once: it would read certificates from files for every connection."""
    from kubernetes.client.api_client import ApiClient
    from kubernetes.client.configuration import Configuration
    from kubernetes.config import ConfigException, load_kube_config_from_dict

    user: Mapping[str, Any] = access.document["users"][0]["user"]
    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS_MAX
    if _local(access):
        configuration.proxy = None  # the client itself ignores NO_PROXY
    with tempfile.TemporaryDirectory(prefix="aftershock-") as scratch:
        try:
            load_kube_config_from_dict(
                dict(access.document), access.context, configuration, persist_config=False, temp_file_path=scratch
            )
        except ConfigException as error:
            raise BadInput(f"context {access.context}: {error}") from None
        api = ApiClient(configuration)
        pool: urllib3.PoolManager = api.rest_client.pool_manager
        if access.server.startswith("https://"):
            for name in ("ca_certs", "cert_file", "key_file"):
                pool.connection_pool_kw.pop(name, None)
            pool.connection_pool_kw["ssl_context"] = _tls(access, None, configuration)

    def ask() -> Callable[[], dict[str, str]]:
        fresh = Configuration()
        load_kube_config_from_dict(dict(access.document), access.context, fresh, persist_config=False)
        return lambda: _said_by(fresh)

    if user.get("exec") or user.get("auth-provider"):
        return pool, _file_of(user) or Plugin(ask, lambda: _said_by(configuration))
    return pool, _file_of(user) or Fixed(_said_by(configuration))


def _said_by(configuration: Any) -> dict[str, str]:
    told = configuration.auth_settings().get("BearerToken")  # runs an exec plugin again whose answer has expired
    return {"authorization": str(told["value"])} if told else {}


def _local(access: Access) -> bool:
    host = urlsplit(access.server).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1" or bool(proxy_bypass(host))


def _tls(access: Access, authorities: str | None, configuration: Any = None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=configuration.ssl_ca_cert if configuration else None, cadata=authorities
        )
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as Go: many clusters' certificates lack key identifiers
        if configuration and not configuration.verify_ssl:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if configuration and configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (ssl.SSLError, OSError) as error:
        raise BadInput(f"context {access.context}: its certificates cannot be used: {error}") from None
    return context
