require "json"
require "net/http"

url, *models = ARGV
models.each do |model|
  body = JSON.generate(model: model, messages: [])
  puts Net::HTTP.post(URI(url), body, "Content-Type" => "application/json").body
end
