import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Main {
    public static void main(String[] words) throws Exception {
        URI url = URI.create(words[0]);
        for (int i = 1; i < words.length; i++) {
            String body = "{\"model\": \"" + words[i] + "\", \"messages\": []}";

            HttpRequest request = HttpRequest.newBuilder(url)
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());

            HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
            connection.setRequestProperty("Content-Type", "application/json");
            connection.setDoOutput(true);
            connection.getOutputStream().write(body.getBytes());
            var answer = connection.getResponseCode() < 400 ? connection.getInputStream() : connection.getErrorStream();
            System.out.println(new String(answer.readAllBytes()));
        }
    }
}
