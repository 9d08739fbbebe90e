"""What Dagster loads: definitions.py gathers the domains' assets, sensors, schedules and jobs."""
