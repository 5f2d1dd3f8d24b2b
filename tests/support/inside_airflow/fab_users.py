"""Makes users and roles of the FAB auth manager; runs inside an Airflow that has its provider.

Takes on stdin, as JSON, the permissions of each user, pairs of an action and a resource, or the name of a role that FAB
brings. The password of each user is their name.
"""

from __future__ import annotations

import json
import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder


def main() -> None:
    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for name, permissions in json.load(sys.stdin).items():
            if isinstance(permissions, str):
                role = manager.find_role(permissions)
            else:
                role = manager.add_role(f"role of {name}")
                for action, resource in permissions:
                    manager.add_permission_to_role(role, manager.create_permission(action, resource))
            assert manager.add_user(name, name, "Test", f"{name}@example.org", role, password=name)


main()
