"""Campaigns: many exposures, each calibrated once, however often the batch is started."""
