"""A vLLM plug-in: each request names the program that steers it (docs/serving.md).

vLLM calls :func:`register`, the entry point ``affectron`` of ``vllm.general_plugins``, in each of its processes. What
follows happens in three of them:

- the front end checks the configuration and the programs at the start, and each request (``hooks``, ``limits``,
  ``library``, ``requests``);
- the engine keeps the cached keys and values of programs apart (``requests``);
- a worker puts steered activations into the model, and writes before each forward which program each token has
  (``runners``, ``rows``, ``activations``).
"""

from __future__ import annotations


def register() -> None:
    """Install the plug-in in this process; again has no effect.

    Raises:
        RuntimeError: vLLM has no place where the plug-in could refuse to start.
    """
    # vLLM only logs an error while it imports a plug-in, and goes on without it. An error in this call ends the start.
    from affectron.vllm.hooks import install

    install()
