"""The user of a request, the DAGs that the user may see and edit, and the token that each write needs.

Login and permissions are Airflow's: its auth manager decides for each DAG. A user who may read a DAG and its runs sees
them. A user who may edit both gets the button. A write needs more than the login cookie. It also needs a token that
this page gave to the same user, in a header that no form and no other site can send.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.tokens import get_signing_key
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import Depends, Header, HTTPException, Request, status
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from dagbump.airflow_plugin.page.turns import stop_if_gone

_TOKEN_SECONDS = 24 * 60 * 60
_SIGNED_BY_ANOTHER = (
    "This page is from an API server with another secret key.\nLoad it again. If that does not help, the processes of "
    "the API server have different values of [api] secret_key, which have to be the same."
)


@dataclass(frozen=True)
class Viewer:
    """A user of Airflow who looks at the page."""

    user: Any

    @property
    def name(self) -> str:
        """The user's name, as in Airflow's audit log."""
        return str(self.user.get_name())

    # Never ask the auth manager in a transaction, because it may use a connection of the same pool, or another server.

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """Return the DAGs, among these, that the user may see together with their runs."""
        return self._allowed("GET", self._allowed("GET", dag_ids), DagAccessEntity.RUN)

    def editable(self, dag_ids: Collection[str]) -> set[str]:
        """Return the DAGs, among these, that the user may edit together with their runs."""
        return self._allowed("PUT", self._allowed("PUT", dag_ids), DagAccessEntity.RUN)

    def _allowed(self, method: str, dag_ids: Collection[str], entity: DagAccessEntity | None = None) -> set[str]:
        return {details.id for details in _details(dag_ids) if self._may(method, entity, details)}

    def _may(self, method: str, entity: DagAccessEntity | None, details: Any) -> bool:
        stop_if_gone()
        manager = get_auth_manager()
        return bool(manager.is_authorized_dag(method=method, access_entity=entity, details=details, user=self.user))

    @property
    def token(self) -> str:
        """The token that each write of this user needs."""
        return str(_signer().dumps(self._id))

    def why_not(self, token: str) -> str:
        """Return why this user may not write with a token; empty if the user may."""
        try:
            owner = _signer().loads(token, max_age=_TOKEN_SECONDS)
        except SignatureExpired:
            return "This page has been open for too long.\nLoad it again."
        except BadSignature:
            return _SIGNED_BY_ANOTHER
        return "" if owner == self._id else "This page was shown to another user.\nLoad it again."

    @property
    def _id(self) -> str:
        return str(self.user.get_id())


def _details(dag_ids: Collection[str]) -> list[DagDetails]:
    """Return the details of each DAG for the auth manager: the id and, if Airflow has teams, the team's name."""
    if not conf.getboolean("core", "multi_team", fallback=False):  # Airflow has no teams up to 3.1
        return [DagDetails(id=dag_id) for dag_id in dag_ids]
    teams = DagModel.get_dag_id_to_team_name_mapping(list(dag_ids))
    return [DagDetails(id=dag_id, team_name=teams.get(dag_id)) for dag_id in dag_ids]


def _signer() -> URLSafeTimedSerializer:
    # If [api] secret_key is set, it is the same in all processes and on all hosts of the API server.
    return URLSafeTimedSerializer(get_signing_key("api", "secret_key"), salt="dagbump")


def log_in_page(request: Request) -> str:
    """Return the address of Airflow's log-in page, which then leads back to this request's page.

    This is what ``/api/v2/auth/login`` redirects to, but up to 3.1 that cuts an address off at its first ``&``.
    """
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"{get_auth_manager().get_url_login()}?{urlencode({'next': back})}"


def viewer(user: Annotated[Any, Depends(get_user)]) -> Viewer:
    """Return the user of a request.

    Raises:
        HTTPException: 401 or 403, if Airflow does not know the user.
    """
    return Viewer(user)


AnyViewer: TypeAlias = Annotated[Viewer, Depends(viewer)]


def writer(viewer: AnyViewer, x_dagbump_token: Annotated[str, Header()] = "") -> Viewer:
    """Return the user of a request that writes.

    Raises:
        HTTPException: 403, if the request does not come from a page that was shown to this user.
    """
    if why_not := viewer.why_not(x_dagbump_token):
        raise HTTPException(status.HTTP_403_FORBIDDEN, why_not)
    return viewer


AnyWriter: TypeAlias = Annotated[Viewer, Depends(writer)]
