<?php
[, $url] = $argv;
foreach (array_slice($argv, 2) as $model) {
    $curl = curl_init($url);
    curl_setopt_array($curl, [
        CURLOPT_POSTFIELDS => json_encode(["model" => $model, "messages" => []]),
        CURLOPT_HTTPHEADER => ["Content-Type: application/json"],
        CURLOPT_RETURNTRANSFER => true,
    ]);
    $body = curl_exec($curl);
    echo $body === false ? curl_error($curl) : $body, "\n";
}
