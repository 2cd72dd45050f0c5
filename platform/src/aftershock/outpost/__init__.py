"""What aftershock runs inside a cluster, and how it is asked from outside.

A *station* (`station.py`, in the pod) records into a spool and answers who asks; a *post* (`post.py`, at home) asks one pod through the API
server's pods/proxy, which needs no other way into the cluster. `objects.py` says what the cluster is asked to run.
"""
