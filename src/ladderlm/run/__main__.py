"""`python -m ladderlm.run CONFIG.json [--resume auto|never|must] [--wait]`: the bare runner.

With `--wait` it waits while another process holds the run's folder, for example one that a killed
study has left saving its state. Imports only the standard library and `BARE_PACKAGES` of
`environment.py`. Every executor uses it, alone or under torchrun.
"""

import logging
import sys
from typing import cast

from ladderlm.config import from_dict, read_config_file
from ladderlm.errors import ConfigError, LadderError, Stopped
from ladderlm.run.execute import Resume, execute
from ladderlm.training.run_config import RunConfig


def main(argv: list[str]) -> int:
    """Run the config and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    log = logging.getLogger("ladderlm.run")
    try:
        resume, wait = "auto", "--wait" in argv
        argv = [word for word in argv if word != "--wait"]
        if len(argv) == 3 and argv[1] == "--resume":
            resume = argv.pop(2)
            argv.pop(1)
        if len(argv) != 1 or resume not in ("auto", "never", "must"):
            raise ConfigError(
                f"wrong arguments: {' '.join(argv)}",
                fix="use python -m ladderlm.run CONFIG.json [--resume auto|never|must] [--wait]",
            )
        config = from_dict(RunConfig, read_config_file(argv[0]), argv[0])
        log.info("%s", execute(config, cast("Resume", resume), wait=wait))
    except LadderError as error:
        log.error("error: %s", error)
        return error.exit_code
    except Stopped as stop:
        log.info("%s; the state is saved", stop)
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
