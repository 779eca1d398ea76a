module reruns

go 1.27
