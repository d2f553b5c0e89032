"""Alerts: tells people and machines what happened in runs, from their stores alone.

| module     | what it does                                                                   |
|------------|--------------------------------------------------------------------------------|
| `edges`    | one thing to tell of a run, and the kinds of such things                       |
| `facts`    | everything that can be told of the current state of a run                      |
| `polling`  | looks at runs again when their files change, and at the time since updates     |
| `record`   | which things were told or are owed to which sink, in a file in the run's folder |
| `messages` | several edges as one message                                                   |
| `sinks`    | the ways out: a command, a webhook, apprise, a heartbeat, a file               |
| `delivery` | a queue, a thread and repeated attempts for each sink                          |
| `alerting` | the process: look, claim, send, record                                         |
| `metrics`  | figures of runs for Prometheus                                                 |
| `secrets`  | references to secrets, and names and ids that do not reveal them               |
| `settings` | the settings file, and the sinks that it makes                                 |
"""
