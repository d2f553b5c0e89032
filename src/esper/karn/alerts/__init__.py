"""Alerts about runs, derived from their stores only.

| module        | purpose                                                                     |
|---------------|-----------------------------------------------------------------------------|
| `alert_types` | the `Alert` struct and the alert kinds                                      |
| `facts`       | the alerts that follow from the current state of a run                      |
| `polling`     | reads a run again when its files change; measures the time since updates    |
| `record`      | alert history per sink (claimed, delivered), in a file in the run's folder  |
| `messages`    | several alerts as one message                                               |
| `sinks`       | destinations: command, webhook, apprise, heartbeat, file                    |
| `delivery`    | a queue, a thread and retries for each sink                                 |
| `alerting`    | the alert process: check runs, claim alerts, send, record delivery          |
| `metrics`     | Prometheus metrics                                                          |
| `secrets`     | references to secrets; names and ids that do not reveal them                |
| `settings`    | the settings file and the sinks that it defines                             |
"""
