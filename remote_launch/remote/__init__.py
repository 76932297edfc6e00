"""The programs that run ON a server. Python >= 3.8 and the standard library only; they import nothing of ours
but each other.

They are packed (``core/programs.py``) into one zip archive named by its content's hash,
``<workdir>/.rl/bin/rl-<hash>.pyz``, and run as ``python3 rl-<hash>.pyz <verb>``. A verb reads one JSON object
on stdin and prints one JSON object as one line on stdout (``follow``, ``fetch`` and the run of a ``prepare``
print frames). A request that is about a workdir names it as "workdir" (a start has it in its spec) and may
name "jobs_folder" (".jobs") and "server", what the inventory calls the server. A refusal is ``{"error":
{"type": …, "message": …, "hint": …}}`` with exit code 0, type being RequestError, WorkspaceError,
MissingProgramError, PortTakenError, SlotsError, StartError, StartUnderWayError or ServerError; a bug is a
traceback on stderr and exit code 1.

verb            does
--------------  ----------------------------------------------------------------------------------------------
start           start one job from its spec, detached; idempotent by job_id
probe           the states of jobs, their log sizes; optionally facts of the machine. One round trip for all
preflight       what a launch must know first: workdir, script, interpreter? address, networks, free ports,
                torch's version
reach           listen and connect to the other servers: who reaches whom, how fast (see reach.py)
checkup         what rl doctor asks of a server: its disks, limits, clock, cards, environment …
gpus            the graphics cards, their processes and whose they are (see gpus.py)
kill            stop jobs: TERM, grace, KILL, verified gone
follow          stream log files from given offsets, live, until the jobs end
workspace       check a workdir before a sync; note what a sync sent and delete what it no longer sends
storage         what environment there is and how much rl keeps; remove environment, code, ended jobs, caches
removal         how much ended jobs keep; remove their folders
queue           who has this machine's slots and who waits for them (see slots.py, tickets.py, turn.py)
outputs         what jobs have written, by paths with wildcards; remove it
prepare         what a server lacks of its environment; make it by a recipe (frames, see prepare.py)
fetch           download one file, on this machine or on a server (frames, see downloads.py)
allreduce       (run by the environment's own python) a real all-reduce between servers; prints lines of JSON
torchrun        (run by the environment's own python) torchrun, with its ChildFailedError written down

The job folder, ``<workdir>/.jobs/<job_id>/`` (0700). All JSON files are written aside and put in place by
``os.replace``. A process that a signal ended has "exit_code" null and the signal's name, as "KILL".

file            content
--------------  ----------------------------------------------------------------------------------------------
lock            flocked by the supervisor for its life
spec.json       the spec as received, without "secret_env" (its names: "secret_names") and "gang.token";
                "machine": hostname, boot_id, pid_namespace, machine_id
started.json    supervisor_pid, supervisor_ticks, child_pid, child_ticks (of this attempt; null for a spare),
                started_at (epoch seconds; of the first attempt), supervisor_age_s (at that moment), attempt,
                attempt_started_at, reason (what there is to say of a running job), attempts (those that are
                over: [{attempt, started_at, ended_at, cause}]), next_attempt (while one is waited for:
                attempt, at, words), replaced (as in exit.json, since this attempt began), server (its name),
                and what spec.json has as "machine" (see owner.py). Of a job of the queue: queued (while it
                waits: need, kind, of, ahead, ticket, since), then slots, ticket, taken_at, waited_s
kill.json       a kill was asked for: signal, grace_s, by, at
failures.json   written by the torchrun verb, first failure first: [{rank, local_rank, pid, exit_code, signal,
                time, error_file, message}]; of an attempt that is over: failures.<attempt>.json
exit.json       state (SUCCEEDED|FAILED|KILLED, LOST by the guardian), exit_code, signal, reason, ended_at,
                started_at, attempt, attempts (all), replaced ({server: the spare that took its place}),
                left_over (processes that could not be ended; 0), failures, cause (of the launch: node_rank,
                server, rank, exit_code, signal, tail, message, time, lost)
job.out job.err stdout and stderr of the command (of torchrun itself for a launch); of attempt 1: job.1.out …
ranks/          torchrun's per-rank logs: ranks/<run>/attempt_0/<local_rank>/{stdout,stderr}.log, error.json;
                of attempt 1: ranks.1/ …
logs.dropped    how much of each log is gone from its beginning (see loglimit.py); absent where none is
logs.index      when the logs had which sizes, a line a look (see logindex.py)
supervisor.log  what the supervisor did, for people
stacks/         what each rank was doing when the job was stopped for want of output: rank-<n>.txt, job.txt;
                pid-<n>.txt is a rank's own, by which it says that it answers SIGUSR1 (see stacks.py)
heartbeat       $RL_HEARTBEAT_FILE: a script that has nothing to print may touch it (see stall.py)
notify.log      what the user's command after the end has printed (see notify.py)

A folder ``.trash-<job_id>-…`` beside them is a removed job, not all gone yet.
"""
