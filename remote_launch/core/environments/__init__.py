"""The Python environment of a server as a recipe: plain data that ``--dry-run`` prints and the server carries
out. A new manager is one more module with a function ``steps``, and a line in ``recipes``.

- ``recipes`` makes the recipe; ``steps`` (what one is), ``places`` (where an environment is), a module a
  manager: ``conda`` (its file: ``conda_file``), ``uv``, ``venv``, ``existing``;
- ``sources`` finds what the project's packages come from: ``pyproject``, ``includes`` (requirements.txt),
  ``poetry_lock``, ``pipfile``, by ``reading`` and ``locked``. A new kind is a reader and a line there;
- ``packages`` makes the installer's calls of it: ``choices`` (what of a lock), ``indexes`` (from where),
  ``failures`` (what their words mean); ``wheels`` and ``platforms`` for servers without internet;
- ``differences`` compares what servers have in the end."""
