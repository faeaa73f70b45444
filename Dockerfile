# Every role's image, from one installation. Plain syntax: the classic builder (DOCKER_BUILDKIT=0) builds it as well.
# Wheels in containers/wheels (scripts/container-wheels puts them there) are all that a build installs from; without any
# it asks the package index. The base needs Python 3.11 or newer with its venv module, and is a Debian for the broker.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS installed
WORKDIR /src
COPY containers/wheels/ /wheels/
RUN python3 -m venv /opt/swashplate \
    && if ls /wheels/*.whl >/dev/null 2>&1; then \
        printf '[global]\nno-index = true\nfind-links = /wheels\n' >/opt/swashplate/pip.conf; \
    fi
# What we depend on comes first, so that a change of our code installs only our code again.
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*project["dependencies"], *project["optional-dependencies"]["postgres"], sep="\n")' >requirements.txt \
    && /opt/swashplate/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt --requirement requirements.txt
COPY . .
RUN /opt/swashplate/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps . \
    && /opt/swashplate/bin/pip uninstall --quiet --yes --disable-pip-version-check pip

FROM ${BASE_IMAGE} AS runtime
# One user everywhere: identity writes private files that the broker reads.
RUN useradd --uid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin swashplate \
    && install -d -o swashplate -g swashplate -m 0700 /state /broker /data/datasets
COPY containers/healthy /usr/local/bin/
COPY --from=installed /opt/swashplate /opt/swashplate
# What stands in the state folder is never imported as a module.
ENV PATH=/opt/swashplate/bin:/usr/local/bin:/usr/bin:/bin PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
USER swashplate
WORKDIR /state

FROM runtime AS manager
EXPOSE 7070
CMD ["python", "-m", "manager"]

FROM runtime AS proplet
CMD ["python", "-m", "proplet"]

FROM runtime AS data-store
EXPOSE 8083
CMD ["python", "-m", "proplet.data_store"]

FROM runtime AS proxy
EXPOSE 9191
CMD ["python", "-m", "proxy"]

FROM runtime AS oci-registry
EXPOSE 5000
CMD ["python", "-m", "proxy.registry"]

FROM runtime AS coordinator
EXPOSE 8080
CMD ["python", "-m", "coordinator"]

FROM runtime AS model-registry
EXPOSE 8081
CMD ["python", "-m", "coordinator.registry"]

FROM runtime AS aggregator
EXPOSE 8082
CMD ["python", "-m", "coordinator.aggregator"]

FROM runtime AS identity
EXPOSE 9002 9003 9005 9006
CMD ["python", "-m", "provision.identity"]

# The broker: Debian's mosquitto, unless the base brings one.
FROM ${BASE_IMAGE} AS mqtt-adapter
RUN command -v mosquitto >/dev/null || { \
        apt-get update -qq && apt-get install -y -qq --no-install-recommends mosquitto && rm -rf /var/lib/apt/lists/*; }
RUN useradd --uid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin swashplate \
    && install -d -o swashplate -g swashplate -m 0700 /state /broker
COPY containers/healthy containers/broker /usr/local/bin/
USER swashplate
WORKDIR /state
EXPOSE 1883
CMD ["broker"]
