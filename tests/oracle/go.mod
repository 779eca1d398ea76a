module pymem/oracle

go 1.27
