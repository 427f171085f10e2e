# Keeps the cores from halting while this script or a child of it runs; sourced. In a virtual machine a halted core may be
# given back late (28 ms were seen), which is then what is measured, or what a test fails of. Linux takes a wish of 0 us as
# long as the file stays open (Documentation/power/pm_qos_interface.rst). Who may not wish runs as before.
if (exec 9>/dev/cpu_dma_latency) 2>/dev/null; then
    exec 9>/dev/cpu_dma_latency
    printf '\0\0\0\0' >&9
fi
