from jfreq.cli import main

main()
