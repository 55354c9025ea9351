"""Other task queues on the same machine in the same run, each by its own recommended settings, beside Jobpipe."""
