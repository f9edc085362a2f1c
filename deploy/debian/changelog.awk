# Prints Debian's changelog from CHANGELOG.md:  awk -v maintainer='NAME <ADDRESS>' -v now='RFC 2822 DATE' -f FILE CHANGELOG.md
# now: the date of a version that is not released yet.

function end_entry(date, command) {
    flush()
    if (version == "") return
    date = now
    if (released ~ /^[0-9]/) {
        command = "LC_ALL=C date -Ru -d " released
        command | getline date
        close(command)
    }
    printf "\n -- %s  %s\n", maintainer, date
}

# Prints an item, wrapped: Debian's lines have at most 80 characters.
function flush(words, count, line, i) {
    if (item == "") return
    count = split(item, words, " ")
    line = "  *"
    for (i = 1; i <= count; i++) {
        if (length(line) + 1 + length(words[i]) > 78) {
            print line
            line = "   "
        }
        line = line " " words[i]
    }
    print line
    item = ""
}

/^## \[/ {
    end_entry()
    if (version != "") print ""
    version = substr($2, 2, length($2) - 2)
    released = $4
    section = ""
    printf "pgpoll (%s) unstable; urgency=medium\n\n", version
    next
}
version == "" { next }
/^### / { flush(); section = $2; next }
/^- / { flush(); item = section ": " substr($0, 3); next }
/^$/ { flush(); next }
{ sub(/^ +/, ""); item = item == "" ? $0 : item " " $0 }
END { end_entry() }
