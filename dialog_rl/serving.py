"""Which adapter version answers: follows the registry between replies, never inside one."""

import logging
import threading
from typing import TYPE_CHECKING

from dialog_rl.conversation import BASE_VERSION
from dialog_rl.errors import DialogRLError, RegistryError

if TYPE_CHECKING:
    from dialog_rl.policy import Policy
    from dialog_rl.registry import AdapterRegistry

log = logging.getLogger(__name__)


class ServingVersion:
    """Follows ``AdapterRegistry.current()`` and refuses what the policy cannot load.

    A version that is damaged or made for another base is refused once, with the reason in
    ``problem``; the version that served before goes on serving.
    """

    def __init__(self, policy: "Policy", registry: "AdapterRegistry") -> None:
        self._policy = policy
        self._registry = registry
        self._lock = threading.Lock()
        self._version = BASE_VERSION
        self._before = BASE_VERSION
        self._refused: str | None = None
        self.problem: str | None = None
        """Why the promoted version is not the one that answers; None when all is well."""

    def version(self) -> str:
        """Return the version the next reply comes from, loading it first if it is new."""
        with self._lock:
            try:
                wanted = self._registry.current()
            except RegistryError as error:
                self.problem = str(error)
                return self._version
            if wanted == self._version:
                self.problem, self._refused = None, None
            elif wanted != self._refused:
                self._swap(wanted)
            return self._version

    def _swap(self, wanted: str) -> None:
        """Load ``wanted`` beside the one in service, then free the one before that."""
        try:
            if wanted not in (BASE_VERSION, self._before):
                self._policy.add_version(wanted, self._registry.path(wanted))
        except DialogRLError as error:
            self._refused = wanted
            self.problem = f"{wanted} was refused, {self._version} goes on answering: {error}"
            log.warning("%s", self.problem)
            return
        # One version back stays loaded: a request may have picked it and not yet leased it.
        if self._before not in (BASE_VERSION, wanted, self._version):
            self._policy.drop_version(self._before)
        self._before, self._version = self._version, wanted
        self.problem, self._refused = None, None
