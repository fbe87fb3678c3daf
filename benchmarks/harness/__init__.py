"""What the benchmarks of this folder share: contestants in processes of their own, statistics, tables, results on disk, a chart."""
