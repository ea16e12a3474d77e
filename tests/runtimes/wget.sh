url=$1; shift
for model in "$@"; do
    # It exits with 8 for an error's status, whose body it shows only if told to.
    wget -q -O - --content-on-error --header 'Content-Type: application/json' \
        --post-data "{\"model\": \"$model\", \"messages\": []}" "$url" || [ $? = 8 ]
    echo
done
