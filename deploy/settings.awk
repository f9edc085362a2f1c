# Turns the settings in the output of `pgpoll.fcgi --help` into lines of a sample file (-v without=NAME) or a manual page (-v man=1).
function wrapped(text, words, count, line, all, i) {
    count = split(text, words, " ")
    for (i = 1; i <= count; i++) {
        if (length(line) + length(words[i]) > 96) {
            all = all "#" line "\n"
            line = ""
        }
        line = line " " words[i]
    }
    return all "#" line
}

function show() {
    if (!name || name == without)
        return
    if (man) {
        gsub(/\\/, "\\e", text)
        gsub(/ --/, " \\-\\-", text)
        gsub(/[.] /, ".\n", text) # one sentence per line
        printf ".It Ev %s\n%s\n", name, text
        if (range)
            print range
    } else {
        if (shown++)
            print ""
        printf "%s\n#%s=%s\n", wrapped(range ? text " " range : text), name, value
    }
}

/^  PGPOLL_[A-Z_]+ / {
    show()
    name = $1
    range = value = ""
    sub(/^ +[^ ]+ +/, "")
    text = $0
    next
}

name && /^ +\(default/ {
    sub(/^ +/, "")
    range = $0
    value = $2
    gsub(/[(),]/, "", value)
}

END { show() }
