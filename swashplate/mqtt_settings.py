"""What can be set about a role's connection to the MQTT broker: one declaration, named after each role."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from swashplate import logging
from swashplate.bus import BrokerAddress, LinkHints, MqttBus, Will
from swashplate.errors import ConfigurationError
from swashplate.settings import MQTT_IDENTITY, Seconds, Settings

log = logging.get("bus")

LONGEST_KEEP_ALIVE = 65535
"""Seconds: MQTT has two bytes for it."""


class MqttSettings(Settings):
    """The broker, who we are there, and how carefully it is spoken to. A role gives the names: ``named_after``."""

    identity: ClassVar[tuple[tuple[str, str, str], ...]] = MQTT_IDENTITY

    domain_id: str = Field("", description="The domain: the first id in every topic.")
    channel_id: str = Field("", description="The channel: the second id in every topic.")
    client_id: str = Field("", description="Who this service is: its user name at the broker.")
    client_key: str = Field("", description="The key of that id: its password at the broker.", repr=False)

    mqtt_address: str = Field(
        "tcp://localhost:1883",
        description="The MQTT broker: tcp://host:port (also mqtt://), or ssl://host:port (also tls://, mqtts://).",
    )
    mqtt_qos: Annotated[int, Field(ge=0, le=2)] = Field(
        1,
        description="How control messages are published. 0 counts as 1: a start or a result must not be dropped. What its "
        "receiver confirms goes out at 0 first, and so when it is not confirmed. What is read is read at QoS 1, also "
        "with 2.",
    )
    mqtt_timeout: Annotated[Seconds, Field(gt=0)] = Field(
        30.0, description="How long a publish may wait for the broker."
    )
    mqtt_keep_alive: Annotated[Seconds, Field(ge=1, le=LONGEST_KEEP_ALIVE)] = Field(
        30.0, description="Time between signs of life to the broker."
    )
    mqtt_tls_ca_cert: str = Field(
        "", description="A file of certificates that an ssl:// broker is checked by; by default the system's."
    )
    mqtt_tls_client_cert: str = Field("", description="The file of the certificate that is shown to an ssl:// broker.")
    mqtt_tls_client_key: str = Field("", description="The file of that certificate's key, when it is another one.")
    mqtt_tls_insecure_skip_verify: bool = Field(
        False, description="Do not check the certificate of an ssl:// broker: anybody in between can read the key."
    )

    def broker(self) -> BrokerAddress:
        """Raises ``ConfigurationError`` naming the setting."""
        if self.mqtt_tls_client_key and not self.mqtt_tls_client_cert:
            key, cert = self._said("mqtt_tls_client_key"), self._said("mqtt_tls_client_cert")
            raise ConfigurationError(f"setting {key}: there is no certificate to it", hint=f"set {cert}")
        try:
            address = BrokerAddress.parse(
                self.mqtt_address,
                ca_cert=self.mqtt_tls_ca_cert,
                client_cert=self.mqtt_tls_client_cert,
                client_key=self.mqtt_tls_client_key,
                insecure_skip_verify=self.mqtt_tls_insecure_skip_verify,
            )
        except ConfigurationError as error:
            raise ConfigurationError(
                f"setting {self._said('mqtt_address')}: {error.sentence}", hint=error.hint
            ) from error
        if not address.tls and (self.mqtt_tls_ca_cert or self.mqtt_tls_client_cert):
            raise ConfigurationError(
                f"setting {self._said('mqtt_address')}: certificates are set, but {self.mqtt_address} is without TLS",
                hint=f"begin it with ssl://, or clear {self._said('mqtt_tls_ca_cert')} and its neighbours",
            )
        return address

    def bus(
        self, client_id: str, *, will: Will | None = None, clean_session: bool = True, bare: bool = False
    ) -> MqttBus:
        """A connection under this MQTT client id, not yet entered; ``bare`` when it is for topics outside the channel.

        Raises ``ConfigurationError``.
        """
        if self.mqtt_qos == 0:
            log.warning(
                "MQTT QoS 0 counts as 1: a start or a result must not be dropped", setting=self._said("mqtt_qos")
            )
        return MqttBus(
            self.broker(),
            client_id=client_id,
            username=self.mqtt_user(),
            password=self.client_key,
            will=will,
            clean_session=clean_session,
            keep_alive=round(self.mqtt_keep_alive),
            publish_timeout=self.mqtt_timeout,
            publish_qos=max(1, self.mqtt_qos),
            hints=self._hints(bare=bare),
        )

    def mqtt_user(self) -> str:
        return self.client_id

    def _hints(self, *, bare: bool) -> LinkHints:
        said = self._said
        topics = f"it may not allow a topic: verify {said('domain_id')} and {said('channel_id')}, and provision again"
        if bare:
            topics = "it does not allow topics outside the channel; what is said inside it goes on"
        return LinkHints(
            credentials=f"verify {said('client_id')} and {said('client_key')}, and provision again",
            address=f"is it running? {said('mqtt_address')} says where it is looked for",
            certificates=f"check {said('mqtt_address')}, {said('mqtt_tls_ca_cert')} and {said('mqtt_tls_client_cert')}",
            topics=topics,
        )

    @classmethod
    def _said(cls, field: str) -> str:
        """The name that guides and provisioning use."""
        return cls.names(field)[-1]
